"""Code that comes with a model: in a job none runs but that of the one commit that an administrator has listed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from trainer_core.errors import ModelLoadError

if TYPE_CHECKING:
    from trainer_core.attempt.staged_inputs import StagedRecord
    from trainer_core.config import Config

_PARAM = "trust_remote_code"
_MAX_DEPTH = 32


def check_model_code(config: "Config", record: "StagedRecord") -> None:
    """Raises ModelLoadError where `trust_remote_code` would run other code than the model's own at `model_revision`.

    Without `trust_remote_code` nothing of a model is run, and nothing is checked.
    """
    if not config.trust_remote_code:
        return
    if record.model is not None:
        _check_pinned(config, record)
        for reference in find_code_references(Path(record.model)):
            if "--" in reference:
                message = (
                    f"trust_remote_code: the model names code of another repository ({reference!r}), which no commit "
                    "pins; use a model that brings its own"
                )
                raise ModelLoadError(message, param=_PARAM)
    for param, folder in (("tokenizer_name_or_path", record.tokenizer), ("lora_hub_model_id", record.adapter)):
        if folder is None or folder == record.model:
            continue
        if next(find_code_references(Path(folder)), None) is not None:
            message = (
                f"{param}: it brings code of its own, and trust_remote_code is for the model's alone; leave it out"
            )
            raise ModelLoadError(message, param=param)


def find_code_references(folder: Path) -> Iterator[str]:
    """The classes that the JSON files directly in a folder name as `module.Class` or `owner/name--module.Class`.

    Raises ModelLoadError for settings that are nested deeper than any model's.
    """
    for path in sorted(folder.glob("*.json")):
        try:
            settings = json.loads(path.read_bytes())
        except (ValueError, OSError):
            continue
        except RecursionError as error:
            raise ModelLoadError(
                f"{path.name} of the model is nested too deeply", param="model_name_or_path"
            ) from error
        yield from _find_in(settings, depth=0)


def _check_pinned(config: "Config", record: "StagedRecord") -> None:
    commit = record.revisions.get(config.model_name_or_path)
    if commit is None or commit != config.model_revision:
        message = (
            "trust_remote_code: the code is trusted at one commit of one repository on the hub; model_revision has to "
            f"be that commit's whole sha, and is {config.model_revision!r}"
        )
        raise ModelLoadError(message, param=_PARAM)


def _find_in(value: object, *, depth: int) -> Iterator[str]:
    if depth > _MAX_DEPTH:
        raise ModelLoadError("the model's settings are nested too deeply", param="model_name_or_path")
    if isinstance(value, list):
        for item in value:
            yield from _find_in(item, depth=depth + 1)
    elif isinstance(value, dict):
        for name, item in value.items():
            if name in ("auto_map", "custom_pipelines"):
                yield from _list_texts(item)
            else:
                yield from _find_in(item, depth=depth + 1)


def _list_texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _list_texts(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _list_texts(item)
