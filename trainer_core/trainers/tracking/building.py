"""Which trackers a training has, and whether they can run, before the model is loaded."""

import json
import os
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

from trainer_core.attempt.tracking_relay import REMOTE_TRACKERS
from trainer_core.config import Config, ConfigError, Problem, dump_config
from trainer_core.config.tracking_checks import list_trackers
from trainer_core.context import StepContext
from trainer_core.trainers.tracking.base import TrackedRun, Tracker
from trainer_core.trainers.tracking.callback import TrackingCallback
from trainer_core.trainers.tracking.feed import TrackerFeed
from trainer_core.trainers.tracking.mlflow import MlflowTracker
from trainer_core.trainers.tracking.relay import RelayTracker
from trainer_core.trainers.tracking.tensorboard import TensorboardTracker
from trainer_core.trainers.tracking.wandb import WandbTracker, find_mode, import_wandb

_MODULES = {"mlflow": "mlflow", "tensorboard": "tensorboard", "wandb": "wandb"}
_TRACKERS: Mapping[str, Callable[[TrackedRun], Tracker]] = {
    "mlflow": MlflowTracker,
    "tensorboard": TensorboardTracker,
    "wandb": WandbTracker,
}


def check_trackers(config: Config, *, is_job: bool) -> None:
    """Raises ConfigError when a tracker's package is missing, or W&B has no key it could use.

    A job uses its own key only; a script also the variable WANDB_API_KEY and the saved login.
    """
    for name in list_trackers(config):
        if find_spec(_MODULES[name]) is None:
            message = (
                f"report_to: the package {_MODULES[name]} is not installed; install it with the extra `tracking`: "
                "pip install 'finesmith-server[tracking]'"
            )
            raise ConfigError([Problem(message, "report_to", "missing_package")])
    if "wandb" in list_trackers(config) and find_mode() == "online":
        _check_wandb_key(config, is_job=is_job)


def build_tracking_callback(config: Config, *, context: StepContext, is_job: bool) -> TrackingCallback:
    """The callback that feeds the Config's trackers, but a W&B that WANDB_MODE disables."""
    names = [name for name in list_trackers(config) if name != "wandb" or find_mode() != "disabled"]
    key = config.wandb_api_key or (None if is_job else os.environ.get("WANDB_API_KEY"))
    values = json.loads(context.redactor.redact_text(json.dumps(dump_config(config))))

    def clean(text: str) -> str:
        return context.redactor.redact_text(text.replace(key, "[redacted]") if key else text)

    feeds = []
    for name in names:
        run = TrackedRun(
            folder=Path(config.output_dir).absolute(),
            config=values,
            project=config.resolved_project_name if name == "wandb" else config.project_name,
            run_name=config.run_name,
            entity=config.wandb_entity,
            api_key=key,
        )
        feeds.append(TrackerFeed(_build_tracker(name, run, context), events=context.events, clean=clean))
    return TrackingCallback(feeds)


def _build_tracker(name: str, run: TrackedRun, context: StepContext) -> Tracker:
    if context.tracking is not None and name in REMOTE_TRACKERS:
        return RelayTracker(run, name=name, path=context.tracking)
    return _TRACKERS[name](run)


def _check_wandb_key(config: Config, *, is_job: bool) -> None:
    wandb = import_wandb()
    from wandb.sdk.lib import wbauth

    key = config.wandb_api_key or (None if is_job else os.environ.get("WANDB_API_KEY"))
    if key is None and not is_job:
        if os.environ.get("WANDB_IDENTITY_TOKEN_FILE") or wandb.run is not None:
            return
        key = wbauth.read_netrc_auth(host=wandb.Settings().base_url)
    if key is None:
        ways = "" if is_job else ", the variable WANDB_API_KEY (also in the .env file), a saved `wandb login`"
        message = f"reporting to W&B needs a key: set wandb_api_key{ways}, or turn report_to_wandb off"
        raise ConfigError([Problem(message, "wandb_api_key", "missing_input")])
    if wbauth.check_api_key(key) is not None:
        message = "wandb_api_key: this is no key of W&B, which has 40 letters, digits and underscores or more"
        raise ConfigError([Problem(message, "wandb_api_key", "invalid_value")])
