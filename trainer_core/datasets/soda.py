"""SODA: 1.2 million short dialogues from the Hub."""

import random
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from trainer_core.config import Config
from trainer_core.datasets.base import BaseDataset, Data
from trainer_core.datasets.row_error import RowError
from trainer_core.types import RawSample

REPOSITORY = "allenai/soda"
DEFAULT_SEED = 42


class SodaDataset(BaseDataset):
    """Dialogues with a narrative as their header, which a small share of the samples goes without."""

    keeps_rows_on_disk: ClassVar[bool] = True
    gives_same_samples: ClassVar[bool] = True

    def __init__(
        self,
        data: Sequence[RawSample],
        header_drop_probability: float = 0.05,
        seed: int | None = None,
        must_have_keys: Sequence[str] | None = None,
    ) -> None:
        """`seed` None: the Config's, else 42. It decides which samples go without their header."""
        super().__init__(data=data, must_have_keys=must_have_keys)
        self.header_drop_probability = header_drop_probability
        self._takes_seed_from_config = seed is None
        self.seed = DEFAULT_SEED if seed is None else seed

    @classmethod
    def get_data(cls, config: Config) -> Data | None:
        """Downloads the splits train and test at one commit; a dialogue that occurs twice, in either, is kept once.

        Raises DataError when the hub refuses, NetworkError when it does not answer.
        """
        import datasets

        from trainer_core.datasets.hub_revision import pin_revision

        seen: set[Any] = set()
        token = config.huggingface_hub_token
        revision = pin_revision(REPOSITORY, token=token)
        train, test = (
            datasets.load_dataset(REPOSITORY, split=split, token=token, revision=revision)
            for split in ("train", "test")
        )
        return _without_repeats(train, seen), _without_repeats(test, seen)

    def configure(self, config: Config) -> None:
        """Takes `seed`, unless the constructor was given one."""
        if self._takes_seed_from_config:
            self.seed = config.seed

    def get_sample(self, index: int) -> RawSample:
        """Header and utterances as `text_parts`, each on one line.

        The same seed and index always give the same sample. Raises RowError for a row without a list of utterances.
        """
        row: Any = self.data[index]
        dialog = row.get("dialog") if isinstance(row, dict) else None
        if not isinstance(dialog, list):
            raise RowError("'dialog' must be a list of texts", index=index, dataset=type(self).__name__)
        parts = [phrase for phrase in dialog if isinstance(phrase, str)]
        header = row.get("header")
        if isinstance(header, str) and not self._drops_header(index):
            parts.insert(0, header)
        return {"text_parts": [part.replace("\n", " ").replace("\r", " ") for part in parts]}

    def _drops_header(self, index: int) -> bool:
        # Seeded by a text: Random hashes it the same way in every process, whatever PYTHONHASHSEED says.
        return random.Random(f"{self.seed}:{index}").random() < self.header_drop_probability


class MappedRows(Sequence[RawSample]):
    """Chosen rows of an indexable table, each converted when it is read: the table stays on disk."""

    def __init__(self, table: Any, *, indices: Sequence[int], convert: Callable[[Any], RawSample]) -> None:
        self._table = table
        self._indices = indices
        self._convert = convert

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> RawSample:  # type: ignore[override]
        return self._convert(self._table[self._indices[index]])


def _without_repeats(table: Any, seen: set[Any]) -> MappedRows:
    """Rows whose `original_index` was not seen before; rows without one are all kept."""
    if "original_index" not in table.column_names:
        return MappedRows(table, indices=range(len(table)), convert=_convert_row)
    indices = []
    for index, original_index in enumerate(table["original_index"]):
        if original_index is None or original_index not in seen:
            indices.append(index)
        seen.add(original_index)
    return MappedRows(table, indices=indices, convert=_convert_row)


def _convert_row(row: dict[str, Any]) -> RawSample:
    phrases = zip(row["speakers"], row["dialogue"], strict=False)
    return {"header": row["narrative"], "dialog": [f"{speaker}: {phrase}" for speaker, phrase in phrases]}
