"""The error of one row of a data set."""

from trainer_core.errors import DataError


class RowError(DataError):
    """A row that does not give a sample; raised by data sets, told by file and line in prepare."""

    def __init__(self, reason: str, *, index: int, dataset: str) -> None:
        super().__init__(f"{dataset}, row {index}: {reason}")
        self.reason = reason
        self.index = index
        """Position in the data set, from 0."""
        self.dataset = dataset

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.reason, self.index, self.dataset)


def _rebuild(cls: type[RowError], reason: str, index: int, dataset: str) -> RowError:
    return cls(reason, index=index, dataset=dataset)
