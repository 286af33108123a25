"""Making a quantized base ready for training an adapter on it."""

from peft import prepare_model_for_kbit_training
from transformers import PreTrainedModel

from trainer_core.config import Config
from trainer_core.models.packed.preparing import upcast_unpacked_parameters
from trainer_core.models.quantization import is_quantized

CHECKPOINTING_OPTIONS = {"use_reentrant": False}
"""Reentrant checkpointing needs inputs that want gradients, which a frozen base does not give."""


def prepare_for_kbit_training(model: PreTrainedModel, *, config: Config) -> PreTrainedModel:
    """Freezes a quantized base and upcasts what stays unquantized to fp32; any other model comes back as it is."""
    if not (config.need_to_prepare_model_for_kbit_training and is_quantized(model)):
        return model
    upcast_unpacked_parameters(model)
    return prepare_model_for_kbit_training(  # type: ignore[no-untyped-call, no-any-return]
        model,
        use_gradient_checkpointing=config.use_gradient_checkpointing,
        gradient_checkpointing_kwargs=dict(CHECKPOINTING_OPTIONS),
    )
