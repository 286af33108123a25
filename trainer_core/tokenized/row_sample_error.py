"""The error of a sample whose row is known."""

from functools import partial

from trainer_core.collators.sample_error import SampleError
from trainer_core.datasets.base import BaseDataset
from trainer_core.datasets.rows_on_disk import RowsOnDisk


class RowSampleError(SampleError):
    """A SampleError told by its row; raised where all rows are tokenised."""

    def __init__(self, reason: str, *, position: int, place: str, is_without_target: bool = False) -> None:
        """`position`: of the row in the data set, from 0. `place`: the row as its user knows it."""
        super().__init__(reason, position=position, is_without_target=is_without_target)
        self.place = place
        self.message = f"{place}: {reason}"
        self.args = (self.message,)

    def __reduce__(self) -> tuple[object, ...]:
        rebuild = partial(
            type(self),
            self.reason,
            position=self.position,
            place=self.place,
            is_without_target=self.is_without_target,
        )
        return rebuild, ()


def locate_error(error: SampleError, dataset: BaseDataset, *, index: int) -> RowSampleError:
    """The error of the row at `index`, told by file and line where rows lie in a file."""
    rows = dataset.data
    place = f"row {index}"
    if isinstance(rows, RowsOnDisk):
        place = f"{rows.path.name} line {rows.get_line_number(index)}"
    return RowSampleError(error.reason, position=index, place=place, is_without_target=error.is_without_target)
