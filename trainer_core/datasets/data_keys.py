"""Which data set and collator fit uploaded rows: inferred once, kept beside the data, applied by every later step."""

import copy
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from trainer_core.config import Config
from trainer_core.errors import DataError
from trainer_core.types import JsonValue

FILE_NAME = "dataset.json"
DEFAULT_DATASET_KEY = "soda"
DEFAULT_COLLATOR_KEY = "lm"
DEFAULT_SAMPLE_FIELD = "text"

ConfigT = TypeVar("ConfigT", bound=Config)


@dataclass(frozen=True, slots=True)
class DataKeys:
    """Keys of the components that read one job's data."""

    dataset_key: str
    collator_key: str


def infer_data_keys(config: Config, first_row: JsonValue) -> DataKeys:
    """The keys for uploaded rows: the Config's own, or, where it has its defaults, what the first row calls for.

    Raises DataError for a row of no known shape.
    """
    dataset_key = config.dataset_key
    if dataset_key == DEFAULT_DATASET_KEY:
        dataset_key = _infer_dataset_key(config, first_row)
    return DataKeys(dataset_key=dataset_key, collator_key=_fit_collator_key(config, dataset_key))


def write_data_keys(folder: Path, keys: DataKeys) -> Path:
    """Writes the keys beside the data, by rename, and returns the file's path."""
    path = folder / FILE_NAME
    partial = folder / f".{FILE_NAME}.partial"
    partial.write_text(json.dumps(asdict(keys)) + "\n", encoding="utf-8")
    partial.replace(path)
    return path


def apply_data_keys(config: ConfigT) -> ConfigT:
    """A copy of the Config with the keys that its prepared training data call for.

    Reads `dataset.json` beside `train_local_path_to_data` where there is one; keys that the Config sets itself win.
    Conversations get the chat collator unless another one is set. Every step that reads prepared data calls this
    first.
    """
    dataset_key = config.dataset_key
    if dataset_key == DEFAULT_DATASET_KEY:
        dataset_key = _read_dataset_key(Path(config.train_local_path_to_data).parent) or dataset_key
    return with_keys(config, DataKeys(dataset_key=dataset_key, collator_key=_fit_collator_key(config, dataset_key)))


def with_keys(config: ConfigT, keys: DataKeys) -> ConfigT:
    """A copy of the Config with these keys."""
    changed = copy.copy(config)
    changed.dataset_key = keys.dataset_key
    changed.collator_key = keys.collator_key
    return changed


def _infer_dataset_key(config: Config, row: JsonValue) -> str:
    keys = row if isinstance(row, Mapping) else {}
    if config.dataset_sample_field != DEFAULT_SAMPLE_FIELD and config.dataset_sample_field in keys:
        return "general"
    if "messages" in keys:
        return "chat"
    if "text_parts" in keys or config.dataset_sample_field in keys:
        return "general"
    found = ", ".join(repr(key) for key in list(keys)[:10]) or "no keys"
    raise DataError(
        f"training_file: the first row has {found}; rows need 'messages' (a conversation), 'text_parts' or 'text', "
        "or set dataset_key to the data set that reads them, or dataset_sample_field to the field with the text",
        param="training_file",
    )


def _fit_collator_key(config: Config, dataset_key: str) -> str:
    if dataset_key == "chat" and config.collator_key == DEFAULT_COLLATOR_KEY:
        return "chat"
    return config.collator_key


def _read_dataset_key(folder: Path) -> str | None:
    try:
        fields = json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    # A script's folder may hold somebody else's dataset.json: only one that reads like ours counts.
    is_ours = isinstance(fields, dict) and set(fields) == {"dataset_key", "collator_key"}
    return str(fields["dataset_key"]) if is_ours else None
