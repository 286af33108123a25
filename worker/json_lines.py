"""Makes Celery's own lines like all others of the worker."""

import json
import os
import sys
import time
from functools import partial

import celery.apps.worker
from celery import signals


def take_over_celery_logging(worker_id: str) -> None:
    """Call it before the worker is built: Celery then configures no logging, and says what it says in JSON."""
    # Celery keeps its hands off all loggers when anybody listens to this signal.
    signals.setup_logging.connect(_leave_as_it_is, weak=False)
    # It tells of a shutdown past every logger, because it does so in a signal handler; there is no setting for it.
    celery.apps.worker.safe_say = partial(_say, worker_id)


def _leave_as_it_is(**_: object) -> None:
    return


def _say(worker_id: str, message: str, *_: object) -> None:
    """One write to the descriptor: a logger's lock may be held by the very code that the signal interrupted."""
    now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
    line = {"event": message.strip(), "worker_id": worker_id, "level": "info", "logger": "celery.worker"}
    os.write(
        sys.__stderr__.fileno() if sys.__stderr__ else 2, json.dumps({**line, "timestamp": f"{now}Z"}).encode() + b"\n"
    )
