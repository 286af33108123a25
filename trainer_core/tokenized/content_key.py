"""The key of tokenised samples: a hash of everything that they depend on."""

import hashlib
import inspect
import json
import pickle
import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from trainer_core.collators.token_collator import TokenCollator
from trainer_core.datasets.base import BaseDataset
from trainer_core.datasets.rows_on_disk import RowsOnDisk
from trainer_core.tokenizers.chat_rendering import ChatRenderer
from trainer_core.tokenizers.text_encoding import PROBE, SpecialAffixes

FORMAT_VERSION = 1
"""Of the files; to be raised when they, or what is in the key, change."""
PACKAGES = ("tokenizers", "transformers", "jinja2")
OWN_PACKAGES = ("collators", "datasets", "tokenizers")
"""Our own code that makes tokens of rows."""
MADE_OF_TOKENIZER = (ChatRenderer, SpecialAffixes)

_LIBRARIES = frozenset({*sys.stdlib_module_names, "tokenizers", "torch", "transformers", "trainer_core"})
"""Packages whose code is known by a version, or by the hash of our own."""


def compute_content_key(dataset: BaseDataset, collator: TokenCollator, *, date: str | None) -> str:
    """64 hexadecimal digits that differ when anything does that a sample's tokens depend on.

    `date`: the day on which templates that write it are rendered. Reads the data file once. Raises OSError, and
    TypeError for what cannot be described.
    """
    tokenizer = collator.tokenizer
    whole = hashlib.sha256()
    for part in (
        json.dumps([FORMAT_VERSION, [_find_version(name) for name in PACKAGES], date]).encode(),
        _hash_own_code().encode(),
        describe_class(type(dataset)),
        describe_settings(dataset, leaving_out=("data",)),
        describe_class(type(collator)),
        describe_settings(collator, leaving_out=("tokenizer",)),
        describe_class(type(tokenizer)),
        _hash_tokenizer(tokenizer).encode(),
        _hash_rows(dataset.data).encode(),
    ):
        # With its length in front, so that no two lists of parts read alike.
        whole.update(f"{len(part)}:".encode() + part)
    return whole.hexdigest()


def describe_class(cls: type) -> bytes:
    """The names of a class and of those above it, with the source of the modules that are neither ours nor a library's.

    Raises TypeError for a class whose source is nowhere to be read.
    """
    facts = []
    for each in cls.__mro__:
        facts.append(f"{each.__module__}.{each.__qualname__}")
        if each.__module__.partition(".")[0] not in _LIBRARIES:
            facts.append(_hash_source(each))
    return json.dumps(facts).encode()


def describe_settings(owner: object, *, leaving_out: Sequence[str]) -> bytes:
    """The object's attributes by name, without what our collators make of their tokenizer.

    Raises TypeError for one that can neither be written as JSON nor pickled.
    """
    settings: list[str] = []
    for name, value in sorted(vars(owner).items()):
        if name in leaving_out or isinstance(value, MADE_OF_TOKENIZER):
            continue
        try:
            settings.append(f"{name}={hashlib.sha256(_encode_value(value)).hexdigest()}")
        except (TypeError, AttributeError, pickle.PicklingError) as error:
            described = f"{type(owner).__name__}.{name} is a {type(value).__name__}"
            raise TypeError(f"{described}, which cannot be told from another") from error
    return json.dumps(settings).encode()


def _find_version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


@lru_cache(maxsize=1)
def _hash_own_code() -> str:
    root = Path(__file__).parents[1]
    whole = hashlib.sha256()
    for package in OWN_PACKAGES:
        for path in sorted((root / package).glob("*.py")):
            whole.update(f"{package}/{path.name} {_hash_file(path)}\n".encode())
    return whole.hexdigest()


def _hash_source(cls: type) -> str:
    try:
        path = inspect.getsourcefile(cls)
        if path is None:
            raise OSError("no source")
        return _hash_file(Path(path))
    except (OSError, TypeError) as error:
        name = f"{cls.__module__}.{cls.__qualname__}"
        raise TypeError(f"the code of {name} is in no file, so that a change of it would not be seen") from error


def _hash_tokenizer(tokenizer: Any) -> str:
    """Its state but for how it pads and cuts, which callers of it change as they please."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["padding"] = state["truncation"] = None
    others = {
        "special_tokens": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "chat_template": tokenizer.chat_template,
        "probe": [int(token_id) for token_id in tokenizer(PROBE)["input_ids"]],
        "split_special_tokens": bool(getattr(tokenizer, "split_special_tokens", False)),
    }
    return hashlib.sha256(json.dumps([state, others]).encode()).hexdigest()


def _hash_rows(rows: Any) -> str:
    """Of a file its bytes; of other rows each by itself, so that no more than one is in memory twice."""
    if type(rows) is RowsOnDisk:
        return f"file {_hash_file(rows.path)}"
    whole = hashlib.sha256()
    for part in _encode_each(rows):
        whole.update(f"{len(part)}:".encode() + part)
    return f"rows {whole.hexdigest()}"


def _encode_each(rows: Any) -> Iterator[bytes]:
    for index in range(len(rows)):
        yield _encode_value(rows[index])


def _encode_value(value: object) -> bytes:
    try:
        return b"json " + json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
    except (TypeError, ValueError, RecursionError):
        # Not always the same bytes for equal objects: the worst of it is that they are tokenised again.
        return b"pickle " + pickle.dumps(value, protocol=5)


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
