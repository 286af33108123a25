"""The data set: a row is a term and its meaning."""

import json
from importlib.resources import files

from glossary.core.config import GlossaryConfig
from trainer_core.datasets import BaseDataset
from trainer_core.types import RawSample

EVAL_ROWS = 4


class GlossaryDataset(BaseDataset):
    """Brings the terms that come with this package; uploaded rows with `term` and `meaning` do as well."""

    question = GlossaryConfig.question

    @classmethod
    def get_data(cls, config: GlossaryConfig) -> tuple[list[RawSample], list[RawSample]]:
        """The last few terms are for evaluation."""
        lines = files("glossary").joinpath("terms.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        return rows[:-EVAL_ROWS], rows[-EVAL_ROWS:]

    def configure(self, config: GlossaryConfig) -> None:
        """Takes over how to ask."""
        self.question = config.question

    def get_sample(self, index: int) -> RawSample:
        """The question and the answer."""
        row = self.data[index]
        return {"text_parts": [self.question.format(term=row["term"]), row["meaning"]]}
