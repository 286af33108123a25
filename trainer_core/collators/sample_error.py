"""The error of one sample in a batch."""

from trainer_core.errors import DataError


class SampleError(DataError):
    """A sample that cannot be trained on; raised by collators, told by file and line in prepare."""

    def __init__(self, reason: str, *, position: int, is_without_target: bool = False) -> None:
        super().__init__(f"sample {position} of this batch: {reason}")
        self.reason = reason
        self.position = position
        """Place in the batch, from 0."""
        self.is_without_target = is_without_target
        """Nothing is wrong with it but that there is nothing to learn."""

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.reason, self.position, self.is_without_target)


def _rebuild(cls: type[SampleError], reason: str, position: int, is_without_target: bool) -> SampleError:
    return cls(reason, position=position, is_without_target=is_without_target)
