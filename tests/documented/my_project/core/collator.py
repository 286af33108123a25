"""A collator that implements `parse_batch` alone."""

from typing import List  # noqa: UP035 - the documentation's own spelling

from trainer_core.collators import BaseCollator
from trainer_core.types import Batch, RawSample


class MyCollator(BaseCollator):
    """Learns everything."""

    def parse_batch(self, raw_batch: List[RawSample]) -> Batch:  # noqa: UP006
        """The texts as tensors."""
        texts = [self.separator.join(sample["text_parts"]) for sample in raw_batch]
        batch = dict(
            self.tokenizer(texts, padding=True, truncation=True, max_length=self.max_length, return_tensors="pt")
        )
        batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        return batch
