"""The error of one sample in a batch."""

from trainer_core.errors import DataError


class SampleError(DataError):
    """A sample that cannot be trained on; raised by collators, told by file and line in prepare."""

    def __init__(self, reason: str, *, position: int) -> None:
        super().__init__(f"sample {position} of this batch: {reason}")
        self.reason = reason
        self.position = position
        """Place in the batch, from 0."""

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.reason, self.position)


def _rebuild(cls: type[SampleError], reason: str, position: int) -> SampleError:
    return cls(reason, position=position)
