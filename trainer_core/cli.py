"""The four steps and the preview as command lines, for scripts (`cli_run_*`) and for `python -m trainer_core`."""

import argparse
import errno
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer_core.config import Config, ConfigError, Problem, Step, build_config, config_adapter
from trainer_core.environment_file import find_tokens, load_environment_file
from trainer_core.errors import NotYetSupportedError, TrainerError, UnknownKeyError

if TYPE_CHECKING:
    from trainer_core.context import StepResult
    from trainer_core.datasets import BaseDataset
    from trainer_core.experiments import Experiment
    from trainer_core.preview import Preview

EXIT_FAILED = 1
EXIT_WRONG_CONFIG = 2


def cli_run_prepare(config_cls: type[Config] = Config) -> "StepResult":
    """Prepares data and model as the flags of this process say.

    Like its siblings: reads `sys.argv` and the `.env` file, seeds every random generator, and runs in this process, so
    that what was registered here is used. Errors that a user can mend are printed, one line each, and end the process:
    status 2 when flags or Config cannot work, 1 for the rest.
    """
    with printed_errors():
        config = build_config_from_flags(config_cls, program=_program())
        from trainer_core.steps.prepare import prepare

        return prepare(config)


def cli_run_train(
    config_cls: type[Config] = Config,
    train_dataset: "BaseDataset | None" = None,
    eval_dataset: "BaseDataset | None" = None,
) -> "Experiment":
    """Trains as the flags of this process say, and returns the finished experiment; see `cli_run_prepare`.

    A data set given here is used as it is, instead of the prepared file. Under torchrun or DeepSpeed's launcher this
    process is one of the ranks: `--local_rank` and LOCAL_RANK are taken, no launcher is started.
    """
    with printed_errors():
        config = build_config_from_flags(config_cls, program=_program())
        from trainer_core.steps.train import train

        return train(config, train_dataset=train_dataset, eval_dataset=eval_dataset)


def cli_run_fuse(config_cls: type[Config] = Config) -> "StepResult":
    """Fuses an adapter with its base as the flags of this process say; see `cli_run_prepare`."""
    with printed_errors():
        config = build_config_from_flags(config_cls, program=_program())
        from trainer_core.steps.fuse import fuse

        return fuse(config)


def cli_run_quantize(config_cls: type[Config] = Config) -> "StepResult":
    """Quantizes a model as the flags of this process say; see `cli_run_prepare`."""
    with printed_errors():
        config = build_config_from_flags(config_cls, program=_program())
        from trainer_core.steps.quantize import quantize

        return quantize(config)


def cli_run_preview(config_cls: type[Config] = Config) -> "Preview":
    """Prints what training would see of a file: `--file rows.jsonl [--num_samples 3] [--json]` and the Config's flags.

    What is learned is marked, by colour on a terminal; then come counts over all rows. No model is loaded. See
    `cli_run_prepare`.
    """
    parser = argparse.ArgumentParser(prog=_program(), add_help=False, allow_abbrev=False)
    parser.add_argument("--file")
    parser.add_argument("--num_samples", "--num-samples", default="3")
    parser.add_argument("--json", action="store_true")
    own, flags = parser.parse_known_args(sys.argv[1:])
    with printed_errors():
        config = build_config_from_flags(config_cls, arguments=flags, program=_program())
        from trainer_core.preview import render_preview
        from trainer_core.preview_page import format_preview

        preview = render_preview(config, _require_file(own.file), num_samples=_parse_num_samples(own.num_samples))
    if own.json:
        sys.stdout.write(json.dumps(asdict(preview), ensure_ascii=False) + "\n")
    else:
        sys.stdout.write(format_preview(preview, has_colour=sys.stdout.isatty()))
    return preview


def _require_file(file: str | None) -> str:
    if file is None:
        raise ConfigError([Problem("--file: name a JSON Lines file to preview", "file", "missing_input")])
    return file


def _parse_num_samples(text: str) -> int:
    if not text.isdecimal():
        message = f"--num_samples: {text!r} is not a number from 0 on"
        raise ConfigError([Problem(message, "num_samples", "invalid_value")])
    return int(text)


RUNNERS: dict[Step, Callable[[type[Config]], Any]] = {
    Step.PREPARE: cli_run_prepare,
    Step.TRAIN: cli_run_train,
    Step.FUSE: cli_run_fuse,
    Step.QUANTIZE: cli_run_quantize,
}


def build_config_from_flags(
    config_cls: type[Config] = Config, *, arguments: Sequence[str] | None = None, program: str | None = None
) -> Config:
    """A validated Config from flags (None: this process's), with the surroundings that a step needs.

    Side effects on this process alone: the variables of `path_to_env_file` are set where they are not, tokenizers'
    parallelism is turned off, logging is shown, and every random generator is seeded. Tokens come from the flag, the
    environment, the `.env` file; none leaves the library's saved login. Raises ConfigError.
    """
    from trainer_core.arguments import parse_arguments

    values = parse_arguments(config_cls, sys.argv[1:] if arguments is None else arguments, program=program or "")
    tokens = find_tokens()
    _load_environment_file(values, config_cls)
    tokens = find_tokens() | tokens
    if not _is_asked(values, "report_to_wandb") and "wandb" not in str(values.get("report_to", "")):
        tokens.pop("wandb_api_key", None)
    rank = {"local_rank": os.environ["LOCAL_RANK"]} if os.environ.get("LOCAL_RANK") else {}
    config = build_config({**tokens, **rank, **values}, config_cls)
    _set_up_process(config)
    return config


def _load_environment_file(values: dict[str, object], config_cls: type[Config]) -> None:
    given = values.get("path_to_env_file")
    if isinstance(given, str) and not Path(given).is_file():
        message = f"path_to_env_file: there is no file {given!r}; create it, or leave the flag out"
        raise ConfigError([Problem(message, "path_to_env_file", "missing_input")])
    default = config_adapter(config_cls).json_schema()["properties"]["path_to_env_file"].get("default")
    path = values.get("path_to_env_file", default)
    load_environment_file(path if isinstance(path, str) else None)


def _is_asked(values: dict[str, object], name: str) -> bool:
    return str(values.get(name, False)).lower() in ("true", "1", "yes")


def _set_up_process(config: Config) -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # DeepSpeed imports MLflow where it is installed, and MLflow would report its use to its makers.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("trainer_core").setLevel(logging.INFO)
    from transformers import set_seed
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    set_seed(config.seed)


def _program() -> str:
    return sys.argv[0] if sys.argv[0].startswith("python ") else Path(sys.argv[0]).name


@contextmanager
def printed_errors() -> Iterator[None]:
    """Ends the process with a status and one line a problem for errors that a user can mend; others pass."""
    try:
        yield
    except ConfigError as error:
        _exit([problem.message for problem in error.problems], status=EXIT_WRONG_CONFIG)
    except (UnknownKeyError, NotYetSupportedError) as error:
        _exit([error.message], status=EXIT_WRONG_CONFIG)
    except TrainerError as error:
        _exit([error.message], status=EXIT_FAILED)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _exit([f"no space left on the disk: {error}"], status=EXIT_FAILED)


def _exit(messages: Sequence[str], *, status: int) -> None:
    for message in messages:
        sys.stderr.write(f"error: {message}\n")
    raise SystemExit(status)
