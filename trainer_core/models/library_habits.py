"""Two habits of libraries that cost time or drown a job's log, mended for this process."""

import logging
import os

import accelerate.utils.other
from accelerate.utils.imports import is_deepspeed_available

from trainer_core.config import Config
from trainer_core.config.parallel_checks import uses_deepspeed

_BITSANDBYTES_PRODUCTS = "bitsandbytes.autograd._functions"


def spare_deepspeed_import(config: Config) -> None:
    """Keeps accelerate from importing DeepSpeed for a training that does not use it.

    It asks whether a model is DeepSpeed's engine, when a Trainer is made and when a model is saved: 2 to 4 s where
    DeepSpeed is installed. A patch, because accelerate looks at the package alone.
    """
    is_used = uses_deepspeed(config) or os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"
    accelerate.utils.other.is_deepspeed_available = is_deepspeed_available if is_used else _say_no


def tell_casts_once() -> None:
    """Lets bitsandbytes say a single time that inputs are cast for its 8-bit product; it says so for each product."""
    logger = logging.getLogger(_BITSANDBYTES_PRODUCTS)
    if not any(isinstance(each, _OnceFilter) for each in logger.filters):
        logger.addFilter(_OnceFilter())


class _OnceFilter(logging.Filter):
    """Lets a message through once, whatever its arguments."""

    def __init__(self) -> None:
        super().__init__()
        self._told: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        is_new = record.msg not in self._told
        self._told.add(record.msg)
        return is_new


def _say_no() -> bool:
    return False
