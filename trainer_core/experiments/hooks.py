"""The hooks of an experiment: empty methods that a subclass fills; each takes only `self`."""

from typing import Any


class ExperimentHooks:
    """Hooks in the order in which they are called.

    A hook around a part is not called when that part was given to the constructor. No hook is called after an error.
    """

    def at_beginning(self) -> None:
        """First of all, before the Config is saved."""

    def before_checks(self) -> None:
        """Before the Config is checked against this machine."""

    def after_checks(self) -> None:
        """After the checks have passed."""

    def before_training_arguments_build(self) -> None:
        """Before `self.training_arguments` is built."""

    def after_training_arguments_build(self) -> None:
        """After it was built; it may still be changed here."""

    def before_train_dataset_build(self) -> None:
        """Before `self.train_dataset` is loaded."""

    def build_train_dataset_additional_kwargs(self) -> dict[str, Any]:
        """More arguments for the constructor of the training data set."""
        return {}

    def after_train_dataset_build(self) -> None:
        """After it was loaded."""

    def before_eval_dataset_build(self) -> None:
        """Before `self.eval_dataset` is loaded."""

    def build_eval_dataset_additional_kwargs(self) -> dict[str, Any]:
        """More arguments for the constructor of the evaluation data set; by default those of the training data set."""
        return self.build_train_dataset_additional_kwargs()

    def after_eval_dataset_build(self) -> None:
        """After it was loaded, or None was found."""

    def before_tokenizer_build(self) -> None:
        """Before `self.tokenizer` is loaded."""

    def after_tokenizer_build(self) -> None:
        """After it was loaded; the place to change its tokens or its chat template."""

    def before_collator_build(self) -> None:
        """Before `self.collator` is built."""

    def build_collator_additional_kwargs(self) -> dict[str, Any]:
        """More arguments for the collator's constructor."""
        return {}

    def after_collator_build(self) -> None:
        """After it was built."""

    def before_quantization_config_build(self) -> None:
        """Before `self.quantization_config` is built."""

    def after_quantization_config_build(self) -> None:
        """After it was built, or None was chosen."""

    def before_model_build(self) -> None:
        """Before `self.model` is loaded."""

    def after_model_build(self) -> None:
        """After it was loaded, and prepared if it is quantized; before an adapter is attached."""

    def before_bnb_quantization(self) -> None:
        """Before a loaded model is quantized."""

    def after_bnb_quantization(self) -> None:
        """After it was quantized."""

    def before_lora_apply(self) -> None:
        """Before the adapter is attached; `self.lora_config` may be set here."""

    def after_lora_apply(self) -> None:
        """After it was attached: `self.model` is a PeftModel."""

    def before_stabilize_training(self) -> None:
        """Before weights are cast."""

    def after_stabilize_training(self) -> None:
        """After weights were cast."""

    def before_trainer_build(self) -> None:
        """Before `self.trainer` is built."""

    def build_trainer_additional_kwargs(self) -> dict[str, Any]:
        """More arguments for the trainer's constructor."""
        return {}

    def after_trainer_build(self) -> None:
        """After it was built; the place to add callbacks to it."""

    def before_train(self) -> None:
        """Before the first step."""

    def after_train(self) -> None:
        """After the last step, when what was trained has been saved; before it is fused."""

    def after_fuse(self) -> None:
        """After the adapter was merged and the fused model saved."""

    def at_end(self) -> None:
        """Last of all."""
