"""Checks of the keys about trackers."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainer_core.errors import Problem
from trainer_core.registry import describe_unknown_key

if TYPE_CHECKING:
    from trainer_core.config.fields import Config

TRACKERS = ("mlflow", "tensorboard", "wandb")

_WANDB_KEYS = ("wandb_project", "wandb_entity")


def list_trackers(config: "Config") -> list[str]:
    """The trackers of the Config, each once: `report_to`, and wandb if `report_to_wandb`."""
    return list(dict.fromkeys([*config.report_to, *(["wandb"] if config.report_to_wandb else [])]))


def find_tracking_problems(config: "Config") -> Iterator[Problem]:
    """Names of no tracker, and a key that no header can carry."""
    for tracker in config.report_to:
        if tracker not in TRACKERS:
            message = describe_unknown_key(tracker, known=list(TRACKERS), where="the list of trackers")
            yield Problem(f"report_to: {message}", "report_to", "invalid_value")
    key = config.wandb_api_key
    if key is not None and not (key.isascii() and key.isprintable() and key and " " not in key):
        message = "wandb_api_key: a key has no spaces, line breaks or other signs than ASCII; copy it anew"
        yield Problem(message, "wandb_api_key", "invalid_value")


def find_tracking_warnings(config: "Config") -> Iterator[Problem]:
    """Keys of trackers that were set and have no effect."""
    trackers = list_trackers(config)
    if config.project_name is not None and config.wandb_project is not None:
        message = f"project_name={config.project_name!r} wins over wandb_project; leave one of them out"
        yield Problem(message, "wandb_project", "no_effect")
    for key in _WANDB_KEYS:
        if getattr(config, key) is not None and "wandb" not in trackers:
            message = f"{key} has no effect: nothing is reported to W&B; set report_to_wandb=True"
            yield Problem(message, key, "no_effect")
    for key in ("project_name", "run_name"):
        if getattr(config, key) is not None and not trackers:
            message = f"{key} has no effect without a tracker; name one in report_to"
            yield Problem(message, key, "no_effect")
