"""Passes a training's log records to its trackers."""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trainer_core.trainers.tracking.feed import TrackerFeed


class TrackingCallback(TrainerCallback):
    """Begins and ends the runs of all trackers, on the first rank."""

    def __init__(self, feeds: Sequence[TrackerFeed]) -> None:
        self._feeds = feeds

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begins the runs."""
        for feed in self._feeds if state.is_world_process_zero else ():
            feed.start()

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Passes the record's numbers on."""
        metrics = name_metrics(kwargs.get("logs") or {})
        for feed in self._feeds:
            feed.log(metrics, step=state.global_step)

    def close(self, *, has_succeeded: bool) -> None:
        """Ends the runs; call it whatever became of the training."""
        for feed in self._feeds:
            feed.close(has_succeeded=has_succeeded)


def name_metrics(logs: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a log record by the names that trackers group by: `eval/…` and `train/…`."""
    named = {}
    for name, value in logs.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            is_eval = name.startswith("eval_")
            named[f"eval/{name.removeprefix('eval_')}" if is_eval else f"train/{name}"] = float(value)
    return named
