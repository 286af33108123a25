"""The base of all data sets."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from torch.utils.data import Dataset

from trainer_core.config import Config
from trainer_core.datasets.row_error import RowError
from trainer_core.datasets.rows_on_disk import RowsOnDisk
from trainer_core.datasets.splits import Splits, write_splits
from trainer_core.errors import StepInputError
from trainer_core.types import RawSample

Data = tuple[Sequence[RawSample], Sequence[RawSample] | None]
"""Training rows, and evaluation rows if there are any."""


class BaseDataset(Dataset[RawSample], ABC):
    """Brings rows (`get_data`, in the step prepare) and turns one into a sample (`get_sample`, in training)."""

    default_must_have_keys: ClassVar[tuple[str, ...]] = ("text_parts",)
    """Keys that every sample must have when the constructor is not told otherwise."""
    keeps_rows_on_disk: ClassVar[bool] = False
    """Whether `load` hands `data` over as a read-only sequence that reads each row when it is asked for, instead of a
    list: for a class that only indexes `self.data`. A list takes several times the file's size in memory. It is not
    inherited: a subclass, which may do more with its rows, says so itself."""
    gives_same_samples: ClassVar[bool] = False
    """Whether a row gives the same sample each time it is asked for, in every pass and every process, so that it may be
    tokenised once and kept: what a sample depends on are the rows and the object's attributes, nothing else. Not
    inherited: a subclass, which may draw at random, says so itself."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Makes a `get_data` that was written as a plain function of the class a classmethod."""
        super().__init_subclass__(**kwargs)
        get_data = cls.__dict__.get("get_data")
        if callable(get_data) and not isinstance(get_data, classmethod | staticmethod):
            setattr(cls, "get_data", classmethod(get_data))  # noqa: B010 - mypy knows get_data as a method

    def __init__(self, data: Sequence[RawSample], must_have_keys: Sequence[str] | None = None) -> None:
        """`must_have_keys` None: as `default_must_have_keys`. A subclass may add to the list afterwards."""
        super().__init__()
        self.data = data
        self.must_have_keys = list(self.default_must_have_keys if must_have_keys is None else must_have_keys)

    @classmethod
    @abstractmethod
    def get_data(cls, config: Config) -> Data | None:
        """Downloads or reads rows: for training, and for evaluation or None. None: data are there already."""

    @abstractmethod
    def get_sample(self, index: int) -> RawSample:
        """The sample of one row; called with `index` as a keyword."""

    def configure(self, config: Config) -> None:
        """Takes from the Config what the constructor was not given; called once after the rows were loaded."""

    @classmethod
    def prepare(cls, config: Config) -> Splits | None:
        """Gets the rows and writes them to the Config's paths; None, and nothing written, when `get_data` has none."""
        data = cls.get_data(config)
        return None if data is None else write_splits(data, config)

    @classmethod
    def load(cls, path: str, **kwargs: Any) -> Self:
        """Reads a prepared file; `kwargs` go to the constructor.

        Raises StepInputError for a file that is not there and DataError for a line that is not JSON.
        """
        file = Path(path)
        if not file.is_file():
            raise StepInputError(f"there is no data file {path}; run the step prepare first")
        rows = RowsOnDisk(file)
        on_disk = cls.__dict__.get("keeps_rows_on_disk", False)
        return cls(data=rows if on_disk else list(rows), **kwargs)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> RawSample:
        """Raises RowError naming the class, the row and the missing keys."""
        sample = self.get_sample(index=index)
        must_have_keys = getattr(self, "must_have_keys", self.default_must_have_keys)
        missing = [key for key in must_have_keys if not (isinstance(sample, Mapping) and key in sample)]
        if missing:
            names = ", ".join(repr(key) for key in missing)
            raise RowError(f"the sample has no {names}", index=index, dataset=type(self).__name__)
        return sample
