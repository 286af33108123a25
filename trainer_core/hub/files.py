"""What of a folder is pushed: an allow-list of weights, settings and tokenizer, cleaned of secrets and host paths."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from trainer_core.checkpoints import ADAPTER_CONFIG
from trainer_core.hub.sharding import parse_size, reshard
from trainer_core.redaction import Redactor

_TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json"),
    *("vocab.txt", "merges.txt", "chat_template.jinja", "*.model", "*.tiktoken", "processor_config.json"),
)
_ADAPTER_FILES = ("adapter_model*.safetensors", "adapter_model*.safetensors.index.json", ADAPTER_CONFIG)
_MODEL_FILES = (
    *("model*.safetensors", "model*.safetensors.index.json", "config.json", "generation_config.json"),
    *("quantize_config.json", "recipe.yaml"),
    # The code of a model that brings its own, as save_pretrained copies it.
    *("modeling_*.py", "configuration_*.py", "tokenization_*.py"),
)
_CLEANED_FILES = (ADAPTER_CONFIG, "config.json", "generation_config.json", "tokenizer_config.json", "*.yaml")
"""Files in which libraries write where something was loaded from."""

CARD = "README.md"


@dataclass(frozen=True, slots=True)
class PushFiles:
    """What one commit holds, by name in the repository."""

    contents: Mapping[str, Path | bytes]

    @property
    def num_bytes(self) -> int:
        """Size of all files together."""
        return sum(
            len(content) if isinstance(content, bytes) else content.stat().st_size for content in self.contents.values()
        )

    def find_stale(self, names_there: Sequence[str]) -> list[str]:
        """Weights in the repository that a smaller or differently split set of the same kind has replaced."""
        stems = [stem for stem in ("adapter_model", "model") if any(name.startswith(stem) for name in self.contents)]
        patterns = [f"{stem}{end}" for stem in stems for end in ("*.safetensors", "*.safetensors.index.json")]
        stale = (name for name in names_there if any(fnmatch(name, pattern) for pattern in patterns))
        return sorted(name for name in stale if "/" not in name and name not in self.contents)


def has_adapter(folder: Path) -> bool:
    """Whether the folder holds a LoRA adapter: then nothing else of weights is pushed."""
    return (folder / ADAPTER_CONFIG).is_file()


def list_push_files(folder: Path) -> list[Path]:
    """The files directly in the folder that are pushed, by name: never optimizer states, pickles or other folders."""
    patterns = (*(_ADAPTER_FILES if has_adapter(folder) else _MODEL_FILES), *_TOKENIZER_FILES)
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and not path.is_symlink() and any(fnmatch(path.name, pattern) for pattern in patterns)
    )


def collect_push_files(
    folder: Path, *, card: str, max_shard_size: str, sets_add_bos: bool, redactor: Redactor, scratch: Path
) -> PushFiles:
    """Reads and mends what is small, and splits weights that are larger than `max_shard_size` into `scratch`.

    `sets_add_bos`: the pushed `tokenizer_config.json` says `add_bos_token: true` and `add_eos_token: false`. The
    folder itself stays as it is. Raises ValueError when it holds no weights, OSError.
    """
    paths = list_push_files(folder)
    weights = [path for path in paths if path.suffix == ".safetensors"]
    if not weights:
        raise ValueError(f"{folder.name} holds no weights to push")
    max_bytes = parse_size(max_shard_size)
    if any(path.stat().st_size > max_bytes for path in weights):
        kept = [path for path in paths if not path.name.endswith((".safetensors", ".safetensors.index.json"))]
        scratch.mkdir(parents=True, exist_ok=True)
        paths = [*kept, *reshard(weights, into=scratch, max_bytes=max_bytes)]
    contents: dict[str, Path | bytes] = {path.name: path for path in paths}
    for name, path in list(contents.items()):
        if isinstance(path, Path) and any(fnmatch(name, pattern) for pattern in _CLEANED_FILES):
            contents[name] = redactor.redact(path.read_bytes())
    if sets_add_bos and isinstance(settings := contents.get("tokenizer_config.json"), bytes):
        contents["tokenizer_config.json"] = set_add_bos(settings)
    contents[CARD] = redactor.redact_text(card).encode()
    return PushFiles(contents)


def set_add_bos(tokenizer_config: bytes) -> bytes:
    """The settings with `add_bos_token` true and `add_eos_token` false: what text-generation-inference reads."""
    settings = {**json.loads(tokenizer_config), "add_bos_token": True, "add_eos_token": False}
    return (json.dumps(settings, indent=2, ensure_ascii=False) + "\n").encode()


def snapshot_push_files(folder: Path, *, into: Path) -> Path:
    """Links what would be pushed into a folder of its own, so that the training may delete its checkpoint meanwhile.

    Copies where the file system has no hard links. Raises FileNotFoundError when the folder has gone already.
    """
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    for path in list_push_files(folder):
        try:
            os.link(path, into / path.name)
        except FileNotFoundError:
            raise
        except OSError:
            shutil.copyfile(path, into / path.name)
    return into
