"""Renders a preview in a process of its own, for the service.

`python -P -m trainer_core.preview_main --folder DIR`. Reads DIR/preview.json, an object with `config` (without
secrets), `rows` (an absolute path), and, if they differ from their defaults, `num_samples` (3), `max_seconds` (60),
`plugins` (null) and `public_names` (what users call a path of this host, by path). Stdin: one line of secrets, then
held open by whoever waits. Writes DIR/result.json, the Preview as JSON, and ends with 0; or DIR/error.json, an object
with `code`, `message` and `param`, and ends with 1. Fetches the tokenizer alone and loads no model.
"""

import argparse
import copy
import json
import os
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from trainer_core.atomic_file import write_atomically
from trainer_core.attempt.outcome import EXIT_FAILED, EXIT_SUCCEEDED, EXIT_TERMINATED
from trainer_core.attempt.secrets_line import read_secrets
from trainer_core.attempt.step_failure import describe_failure
from trainer_core.config import SECRET_FIELDS, Config, Step, build_config, configs_registry
from trainer_core.plugins import load_plugins
from trainer_core.redaction import Redactor
from trainer_core.types import JsonValue
from trainer_core.watchdog import exit_when_stdin_closes, kill_descendants

if TYPE_CHECKING:
    from trainer_core.preview import Preview

DEFAULT_MAX_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class PreviewRequest:
    """The file preview.json."""

    config: Mapping[str, JsonValue]
    """The Config's fields as the user gave them, `local:` names resolved, secrets left out."""
    rows: str
    """Absolute path of the file of rows."""
    num_samples: int = 3
    max_seconds: float = DEFAULT_MAX_SECONDS
    """Rows that are not counted by then are left out of the counts."""
    plugins: str | None = None
    """As a job's: a comma list of `module:function`; None: entry points alone."""
    public_names: Mapping[str, str] = field(default_factory=dict)
    """What the user calls a path of this host, by the path."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Renders the preview and returns the exit status. Takes over this process's stdin and signals."""
    parser = argparse.ArgumentParser(prog="python -m trainer_core.preview_main")
    parser.add_argument("--folder", type=Path, required=True)
    folder: Path = parser.parse_args(arguments).folder
    signal.signal(signal.SIGTERM, _exit_terminated)
    secrets = read_secrets()
    exit_when_stdin_closes(kill_descendants)
    redactor = Redactor(tuple(secrets.values()))
    # A preview runs users' code and a dozen libraries: whatever they raise ends here, in a code and in the log.
    try:
        request = PreviewRequest(**json.loads((folder / "preview.json").read_text(encoding="utf-8")))
        redactor = Redactor(tuple(secrets.values()), public_names=request.public_names)
        preview = render_request(request, secrets=secrets, redactor=redactor)
        write_atomically(folder / "result.json", redactor.redact(_to_json(asdict(preview))))
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()
        failure = describe_failure(error, step=Step.PREPARE, folder=folder)
        fields = {"code": failure.code, "message": failure.message, "param": failure.param}
        write_atomically(folder / "error.json", redactor.redact(_to_json(fields)))
        return EXIT_FAILED
    return EXIT_SUCCEEDED


def render_request(request: PreviewRequest, *, secrets: Mapping[str, str], redactor: Redactor) -> "Preview":
    """Fetches the tokenizer, whose folder `redactor` then names as the user does, and renders.

    Raises TrainerError of every kind that data and tokenizers give rise to.
    """
    from trainer_core.staging import stage_tokenizer

    load_plugins(request.plugins)
    given = {name: value for name, value in secrets.items() if name in SECRET_FIELDS}
    config_class = configs_registry.get(str(request.config.get("config_key") or "base"))
    config = build_config({**request.config, **given}, config_class)
    folder = stage_tokenizer(config)
    if folder not in request.public_names:
        redactor.name_paths({folder: config.correct_tokenizer_name_or_path})

    from trainer_core.preview import render_preview

    return render_preview(
        _with_tokenizer(config, folder),
        request.rows,
        num_samples=request.num_samples,
        max_seconds=request.max_seconds,
    )


def _with_tokenizer(config: Config, folder: str) -> Config:
    local = copy.copy(config)
    local.tokenizer_name_or_path = folder
    return local


def _to_json(fields: Any) -> bytes:
    return json.dumps(fields, ensure_ascii=False).encode(errors="replace")


def _exit_terminated(number: int, frame: FrameType | None) -> None:
    os._exit(EXIT_TERMINATED)


if __name__ == "__main__":
    sys.exit(main())
