"""Weights & Biases, without its environment variables, its console capture and its record of the command line."""

import importlib
import os
from collections.abc import Mapping
from typing import Any

from trainer_core.trainers.tracking.base import TrackedRun
from trainer_core.trainers.tracking.environment import environment

_INIT_TIMEOUT_SECONDS = 30.0
_FINISH_TIMEOUT_SECONDS = 60.0


def import_wandb() -> Any:
    """The package, which would otherwise report its own errors to its maker. Raises ImportError."""
    with environment(WANDB_ERROR_REPORTING="false"):
        return importlib.import_module("wandb")


def find_mode() -> str:
    """`online`, `offline` or `disabled`, as the variable WANDB_MODE of this process says."""
    mode = os.environ.get("WANDB_MODE", "online").lower()
    return {"dryrun": "offline", "run": "online", "shared": "online"}.get(mode, mode)


class WandbTracker:
    """One run. Its files lie in `wandb` below the training's folder, never in the current one.

    A run that the calling script has begun itself is used, and left open. When W&B cannot be reached or refuses the
    key, the run is kept offline, to be sent later with `wandb sync`.
    """

    name = "wandb"

    def __init__(self, run: TrackedRun) -> None:
        self._description = run
        self._run: Any = None
        self._owns_run = False
        self.problem: str | None = None
        """Why the run is offline although it was to be online."""

    def start(self) -> str:
        """Begins the run, offline if it cannot be online."""
        wandb = import_wandb()
        folder = self._description.folder
        if wandb.run is not None:
            self._run = wandb.run
            self._run.config.update(dict(self._description.config), allow_val_change=True)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            self._owns_run = True
            self._run = self._begin(wandb, mode=find_mode())
        self._run.define_metric("train/global_step")
        self._run.define_metric("*", step_metric="train/global_step", step_sync=True)
        return self._run.url or str(folder / "wandb")

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Hands the metrics over to W&B's own process, which sends them."""
        self._run.log({**metrics, "train/global_step": step})

    def finish(self, *, has_succeeded: bool) -> None:
        """Waits at most a minute for what has not been sent; it can be sent later with `wandb sync`."""
        if self._owns_run and self._run is not None:
            with environment():
                self._run.finish(exit_code=0 if has_succeeded else 1)

    def _begin(self, wandb: Any, *, mode: str) -> Any:
        try:
            return self._init(wandb, mode=mode)
        except (wandb.Error, OSError, ValueError, TimeoutError) as error:
            if mode != "online":
                raise
            reason = str(error).partition("\n")[0]
            self.problem = f"W&B cannot be reached, or refuses wandb_api_key ({reason})"
            return self._init(wandb, mode="offline")

    def _init(self, wandb: Any, *, mode: str) -> Any:
        run = self._description
        settings = wandb.Settings(
            # An explicit key is kept in memory; one that W&B finds itself may end in ~/.netrc.
            api_key=run.api_key if mode == "online" else None,
            console="off",
            # The record of the command line, which may hold keys, and of the host.
            x_disable_meta=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
            disable_git=True,
            disable_code=True,
            silent=True,
            init_timeout=_INIT_TIMEOUT_SECONDS,
            finish_timeout=_FINISH_TIMEOUT_SECONDS,
        )
        with environment(WANDB_SILENT="true"):
            return wandb.init(
                project=run.project,
                entity=run.entity,
                name=run.run_name,
                dir=str(run.folder),
                mode=mode,
                config=dict(run.config),
                settings=settings,
            )
