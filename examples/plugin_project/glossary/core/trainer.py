"""The trainer: a focal loss (https://arxiv.org/abs/1708.02002) over the answer's tokens."""

from typing import Any

from torch import Tensor, nn

from trainer_core.trainers import LMTrainer


class FocalTrainer(LMTrainer):
    """Tokens that the model predicts well already weigh less."""

    def __init__(self, *args: Any, focus: float = 0.0, **kwargs: Any) -> None:
        """`focus` 0 is the usual loss."""
        super().__init__(*args, **kwargs)
        self.focus = focus

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The loss of a batch: its sum over the tokens of the whole optimizer step, which Trainer has counted."""
        outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        # Labels stand at their own token: each is predicted by the position before it.
        logits, labels = outputs.logits[:, :-1].flatten(0, 1).float(), inputs["labels"][:, 1:].flatten()
        losses = nn.functional.cross_entropy(logits, labels, ignore_index=self.ignore_index, reduction="none")
        known = (-losses.detach()).exp()
        loss = ((1 - known) ** self.focus * losses).sum()
        num_tokens = (labels != self.ignore_index).sum() if num_items_in_batch is None else num_items_in_batch
        loss = loss / num_tokens
        return (loss, outputs) if return_outputs else loss
