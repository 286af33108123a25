"""Names that components and Config share."""

from enum import StrEnum


class Step(StrEnum):
    """The steps of a job, in the order in which they run."""

    PREPARE = "prepare"
    TRAIN = "train"
    FUSE = "fuse"
    QUANTIZE = "quantize"


STEP_ORDER: tuple[Step, ...] = (Step.PREPARE, Step.TRAIN, Step.FUSE, Step.QUANTIZE)
