"""Environment variables that a library reads and takes no argument for."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

_lock = Lock()


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Sets variables of this process for a few library calls, and puts back what they were, unset ones included.

    What the calls themselves leave in the variables that start with the libraries' names goes too.
    """
    with _lock:
        before = dict(os.environ)
        os.environ.update(variables)
        try:
            yield
        finally:
            for name in set(os.environ) | set(variables):
                if name.startswith(("WANDB_", "MLFLOW_")) and os.environ.get(name) != before.get(name):
                    _put_back(name, before.get(name))


def _put_back(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
