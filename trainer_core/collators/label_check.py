"""The check of a user's collator for labels that would be learned wrongly, without a word, by a model that shifts."""

from typing import Any

from trainer_core.collators.base import IGNORED_LABEL, BaseCollator
from trainer_core.collators.row_check import encodes_samples
from trainer_core.datasets.base import BaseDataset
from trainer_core.types import Batch

NUM_ROWS_LOOKED_AT = 8


def check_labels(dataset: BaseDataset, collator: BaseCollator, *, num_rows: int) -> list[str]:
    """What is wrong with a batch of the first rows, a sentence each; nothing is looked at for a built-in collator."""
    if encodes_samples(collator):
        return []
    batch = collator([dataset[index] for index in range(min(num_rows, NUM_ROWS_LOOKED_AT))])
    name = type(collator).__name__
    return [f"the collator {name} cannot be trained with: {fault}" for fault in describe_label_faults(batch)]


def describe_label_faults(batch: Batch) -> list[str]:
    """What is wrong with a batch of several samples, a sentence each; empty for labels as the model wants them.

    Found are labels that are shifted already, and padding that would be learned.
    """
    input_ids: Any = batch.get("input_ids")
    labels: Any = batch.get("labels")
    attention_mask: Any = batch.get("attention_mask")
    if input_ids is None or labels is None or input_ids.shape != labels.shape:
        return []
    faults = []
    is_target = labels != IGNORED_LABEL
    if attention_mask is not None and attention_mask.shape == labels.shape:
        if bool((is_target & (attention_mask == 0)).any()):
            faults.append(f"its labels at padded positions are not {IGNORED_LABEL}, so that padding would be learned")
        is_target &= attention_mask != 0
    is_aligned = bool((labels == input_ids)[is_target].all())
    following = is_target[:, :-1]
    is_shifted = bool(following.any()) and bool((labels[:, :-1] == input_ids[:, 1:])[following].float().mean() > 0.9)
    if is_shifted and not is_aligned:
        faults.append(
            "its labels are shifted by one already; the model shifts them itself, so that labels stand at the same "
            "position as their tokens"
        )
    return faults
