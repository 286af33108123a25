"""An experiment that fills one hook."""

from trainer_core.experiments import Experiment


class MyExperiment(Experiment):
    """Leaves a file, so that a test sees that its hook was called."""

    def before_lora_apply(self) -> None:
        """Called with nothing but self."""
        with open("before_lora_apply", "w") as file:
            file.write(type(self.model).__name__)
