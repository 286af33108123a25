"""MLflow by its client, which changes nothing outside its own run."""

import importlib
import os
import time
from collections.abc import Mapping
from typing import Any

from trainer_core.trainers.tracking.base import TrackedRun
from trainer_core.trainers.tracking.environment import environment

_PARAMS_A_REQUEST = 100
_LONGEST_VALUE = 500


def import_mlflow() -> Any:
    """The package, which would otherwise report its use to its makers. Raises ImportError."""
    with environment(MLFLOW_DISABLE_TELEMETRY="true"):
        return importlib.import_module("mlflow")


class MlflowTracker:
    """One run, on the server that MLFLOW_TRACKING_URI names, else in files in `mlruns` below the training's folder."""

    name = "mlflow"

    def __init__(self, run: TrackedRun) -> None:
        self._description = run
        self._client: Any = None
        self._run_id = ""

    def start(self) -> str:
        """Begins the run, in the experiment that the project names, and writes the Config as its parameters."""
        mlflow = import_mlflow()
        run = self._description
        uri = os.environ.get("MLFLOW_TRACKING_URI") or (run.folder / "mlruns").absolute().as_uri()
        # Without it MLflow 3 refuses to keep runs in files.
        with environment(MLFLOW_ALLOW_FILE_STORE="true"):
            self._client = mlflow.MlflowClient(tracking_uri=uri)
        experiment = run.project or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "Default"
        found = self._client.get_experiment_by_name(experiment)
        experiment_id = found.experiment_id if found else self._client.create_experiment(experiment)
        self._run_id = self._client.create_run(experiment_id, run_name=run.run_name).info.run_id
        params = [
            mlflow.entities.Param(name, str(value)[:_LONGEST_VALUE])
            for name, value in run.config.items()
            if value is not None
        ]
        for start in range(0, len(params), _PARAMS_A_REQUEST):
            self._client.log_batch(self._run_id, params=params[start : start + _PARAMS_A_REQUEST])
        return f"{experiment}, run {self._run_id}"

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Writes the metrics of the step in one request."""
        entities = importlib.import_module("mlflow.entities")
        now_ms = time.time_ns() // 1_000_000
        self._client.log_batch(
            self._run_id, metrics=[entities.Metric(name, value, now_ms, step) for name, value in metrics.items()]
        )

    def finish(self, *, has_succeeded: bool) -> None:
        """Marks the run as finished or failed."""
        if self._run_id:
            self._client.set_terminated(self._run_id, status="FINISHED" if has_succeeded else "FAILED")
