"""Logging of server and worker alike: one JSON object a line on standard error, without secrets."""

import logging
import sys
import threading
from collections.abc import Mapping, MutableMapping
from types import TracebackType
from typing import Any, TextIO, cast

import structlog
from structlog.types import Processor

from app.log_redaction import drop_secret_fields, redact_line
from app.log_stream import LogStream

logger = logging.getLogger("finesmith")


def configure_logging(level: str, *, facts: Mapping[str, str] | None = None, extra: tuple[Processor, ...] = ()) -> None:
    """Sets up structlog and the standard library; takes over uncaught exceptions and warnings of this process.

    `facts` stand in every line, as the worker's id; `extra` processors add what changes from line to line.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    chain: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _add_facts(dict(facts or {})),
        *extra,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*chain, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    # A line is written within a request: one that cannot be would end it as a 500.
    handler = logging.StreamHandler(cast(TextIO, LogStream(sys.stderr)))
    handler.setFormatter(build_formatter(chain))
    logging.basicConfig(handlers=[handler], level=number, force=True)
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


def build_formatter(chain: list[Processor]) -> logging.Formatter:
    """Renders records of both kinds. JSON escapes what would end a line or move a terminal's cursor."""
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=chain,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            drop_secret_fields,
            structlog.processors.JSONRenderer(),
            _finish_line,
        ],
    )


def _finish_line(_logger: object, _method: str, line: Any) -> str:
    # DEL is the one control character that JSON leaves as it is.
    return redact_line(str(line)).replace("\x7f", "\\u007f")


def _add_facts(facts: Mapping[str, str]) -> Processor:
    def add(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        for name, value in facts.items():
            event.setdefault(name, value)
        return event

    return add


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    logger.critical("the process ends with an error", exc_info=(kind, error, trace))


def _log_uncaught_in_thread(arguments: threading.ExceptHookArgs) -> None:
    if arguments.exc_value is None or issubclass(arguments.exc_type, SystemExit):
        return
    exc_info = (arguments.exc_type, arguments.exc_value, arguments.exc_traceback)
    logger.error("a thread ends with an error", exc_info=exc_info)
