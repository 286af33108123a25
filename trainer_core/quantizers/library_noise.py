"""Keeps llm-compressor's log lines and progress bars out of a step's output, and others' logging as it was."""

import importlib
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_DISABLED = "LLM_COMPRESSOR_LOG_DISABLED"


def import_quietly(module: str) -> Any:
    """Imports llm-compressor without letting it take over loguru.

    Its import removes every loguru handler of the process and adds one on stdout, unless this variable says no; what
    it would log is found out and told by our own checks.
    """
    before = os.environ.get(_DISABLED)
    os.environ[_DISABLED] = "true"
    try:
        imported = importlib.import_module(module)
    finally:
        if before is None:
            del os.environ[_DISABLED]
        else:
            os.environ[_DISABLED] = before
    _add_metric_level()
    return imported


def _add_metric_level() -> None:
    """The library logs to a level of its own, which it forgets to make when its log is disabled."""
    from loguru import logger

    try:
        logger.level("METRIC")
    except ValueError:
        logger.level("METRIC", no=38)


@contextmanager
def quiet_library() -> Iterator[None]:
    """No progress bars, and no notes of compressed-tensors, torch.fx and transformers, within the block."""
    from tqdm import tqdm  # type: ignore[import-untyped]
    from transformers.utils import logging as transformers_logging

    original = tqdm.__init__

    # Every bar in there is built from this class with no way to turn it off.
    def start_disabled(bar: Any, *args: Any, **kwargs: Any) -> None:
        original(bar, *args, **{**kwargs, "disable": True})

    bars_were_on = transformers_logging.is_progress_bar_enabled()
    noisy = [logging.getLogger(name) for name in ("compressed_tensors", "torch.fx", "transformers")]
    levels = [logger.level for logger in noisy]
    tqdm.__init__ = start_disabled
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    for logger in noisy:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning)
            warnings.filterwarnings("ignore", category=FutureWarning)
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            yield
    finally:
        tqdm.__init__ = original
        if bars_were_on:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
        for logger, level in zip(noisy, levels, strict=True):
            logger.setLevel(level)
