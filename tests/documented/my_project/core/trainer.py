"""A trainer below transformers' own, whose `compute_loss` has the signature of the documentation."""

from typing import Dict, Tuple, Union  # noqa: UP035 - the documentation's own spelling

from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel, Trainer


class MyTrainer(Trainer):
    """The model's own loss, and a count of how often it was asked for."""

    num_calls = 0

    def compute_loss(
        self,
        model: Union[PreTrainedModel, PeftModel],  # noqa: UP007
        inputs: Dict[str, Tensor],  # noqa: UP006
        return_outputs: bool = False,
    ) -> Union[Tensor, Tuple[Tensor, Dict[str, Tensor]]]:  # noqa: UP006, UP007
        """The mean over this batch."""
        type(self).num_calls += 1
        outputs = model(**inputs)
        return (outputs.loss, outputs) if return_outputs else outputs.loss
