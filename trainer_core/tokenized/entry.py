"""An entry of the cache: flat files of tokens, and a small JSON file that says what they hold and how to know them."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from trainer_core.atomic_file import write_atomically

FACTS = "facts.json"
INPUT_IDS = "input_ids.int32"
IS_TARGET = "is_target.uint8"
OFFSETS = "offsets.int64"
"""Where each row begins in the other two files, in tokens, and at last where the last one ends."""


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What a file must be."""

    num_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class EntryFacts:
    """What an entry holds."""

    num_rows: int
    num_tokens: int
    num_target_tokens: int
    files: Mapping[str, FileFacts]
    """By name: the three files of tokens."""


def save_facts(folder: Path, facts: EntryFacts) -> None:
    """Written last: an entry without its facts is none. Raises OSError."""
    write_atomically(folder / FACTS, json.dumps(asdict(facts), indent=1) + "\n")


def load_facts(folder: Path) -> EntryFacts | None:
    """None when there is no entry, or one whose files do not have the sizes that they should have."""
    try:
        content = json.loads((folder / FACTS).read_bytes())
        files = {name: FileFacts(**content["files"][name]) for name in (INPUT_IDS, IS_TARGET, OFFSETS)}
        counts = {name: int(content[name]) for name in ("num_rows", "num_tokens", "num_target_tokens")}
        are_whole = all((folder / name).stat().st_size == file.num_bytes for name, file in files.items())
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    facts = EntryFacts(**counts, files=files)
    return facts if are_whole and _sizes_fit(facts) else None


def has_its_bytes(folder: Path, facts: EntryFacts) -> bool:
    """Whether every byte of the entry is as it was written; reads all of it. Raises OSError."""
    for name, file in facts.files.items():
        with (folder / name).open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != file.sha256:
                return False
    return True


def measure_bytes(folder: Path) -> int:
    """Bytes of the files directly in a folder; what vanishes meanwhile counts nothing."""
    try:
        return sum(path.stat().st_size for path in folder.iterdir())
    except FileNotFoundError:
        return 0


def _sizes_fit(facts: EntryFacts) -> bool:
    sizes = {name: file.num_bytes for name, file in facts.files.items()}
    expected = {INPUT_IDS: 4 * facts.num_tokens, IS_TARGET: facts.num_tokens, OFFSETS: 8 * (facts.num_rows + 1)}
    return sizes == expected
