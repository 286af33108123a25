"""The experiment: what happens around the training."""

import time

from trainer_core.experiments import Experiment


class GlossaryExperiment(Experiment):
    """Hands the trainer its option, and tells how long the training took."""

    def build_trainer_additional_kwargs(self) -> dict[str, float]:
        """What the trainer's constructor takes beyond the usual."""
        return {"focus": self.config.focus}

    def before_train(self) -> None:
        """Starts the clock."""
        self.started_at = time.monotonic()

    def after_train(self) -> None:
        """An event of the job, or a line in a script's log."""
        seconds = time.monotonic() - self.started_at
        self.context.events.emit(
            "decision",
            message=f"learned {len(self.train_dataset)} terms in {seconds:.1f} s",
            data={"num_terms": len(self.train_dataset), "seconds": seconds},
        )
