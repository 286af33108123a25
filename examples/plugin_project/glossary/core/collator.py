"""The collator: the question is read, the answer and its end are learned."""

import torch
from torch.nn.utils.rnn import pad_sequence

from trainer_core.collators import BaseCollator
from trainer_core.types import Batch, RawSample

NOT_LEARNED = -100


class GlossaryCollator(BaseCollator):
    """Question, separator, answer, end of text."""

    def parse_batch(self, raw_batch: list[RawSample]) -> Batch:
        """`input_ids`, `attention_mask` and `labels`, each of shape (samples, longest sample)."""
        input_ids, labels = [], []
        for sample in raw_batch:
            question, answer = sample["text_parts"]
            asked = self.tokenizer(question + self.separator)["input_ids"]
            learned = [*self.tokenizer(answer, add_special_tokens=False)["input_ids"], self.tokenizer.eos_token_id]
            input_ids.append(torch.tensor([*asked, *learned][: self.max_length]))
            labels.append(torch.tensor([*[NOT_LEARNED] * len(asked), *learned][: self.max_length]))
        lengths = torch.tensor([len(each) for each in input_ids])
        padded = pad_sequence(input_ids, batch_first=True, padding_value=self.tokenizer.pad_token_id)
        return {
            "input_ids": padded,
            "attention_mask": (torch.arange(padded.shape[1]) < lengths[:, None]).long(),
            "labels": pad_sequence(labels, batch_first=True, padding_value=NOT_LEARNED),
        }
