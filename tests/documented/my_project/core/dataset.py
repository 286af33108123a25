"""A data set whose `get_data` is written without `@classmethod`, as the documentation writes it."""

from typing import List, Optional, Tuple  # noqa: UP035 - the documentation's own spelling

from trainer_core import Config
from trainer_core.datasets import BaseDataset
from trainer_core.types import RawSample


class MyDataset(BaseDataset):
    """Sums."""

    def get_data(cls, config: Config) -> Optional[Tuple[List[RawSample], Optional[List[RawSample]]]]:  # noqa: UP006, UP045
        """Thirty rows to train on, none to evaluate on."""
        return [{"left": number, "right": number % 7} for number in range(30)], None

    def get_sample(self, index: int) -> RawSample:
        """A question and its answer."""
        row = self.data[index]
        return {"text_parts": [f"{row['left']} + {row['right']} =", str(row["left"] + row["right"])]}
