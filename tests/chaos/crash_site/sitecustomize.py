"""Lets a process die at a named place: read by Python's start-up where this folder is on PYTHONPATH, by nobody else.

The folder of the list of places and of the armed ones follows on PYTHONPATH too: a pipeline's environment keeps no
other variable. A place is a line `name module:function before|after`; an empty file of its name arms it, once.
"""

import importlib.abc
import importlib.machinery
import os
import signal
import sys
from functools import wraps

LIST = "crash-points.txt"


def find_folder():
    """The control folder, or None where nobody made one."""
    return next((folder for folder in sys.path if os.path.isfile(os.path.join(folder, LIST))), None)


def read_places(folder):
    """By module: (name, function's path, when)."""
    places = {}
    with open(os.path.join(folder, LIST), encoding="utf-8") as file:
        for line in file:
            name, target, when = line.split()
            module, _, path = target.partition(":")
            places.setdefault(module, []).append((os.path.join(folder, name), path, when))
    return places


def die_if_armed(path):
    """Whoever takes the file away dies, as of SIGKILL: nothing is flushed and no handler runs."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def wrap(function, armed, when):
    """The function with the place before it or after it."""

    @wraps(function)
    def wrapped(*arguments, **keywords):
        if when == "before":
            die_if_armed(armed)
        result = function(*arguments, **keywords)
        if when == "after":
            die_if_armed(armed)
        return result

    return wrapped


def patch(module, places):
    """Puts the places of one module in; a function that is not there is an error of whoever lists it."""
    for armed, path, when in places:
        *owners, name = path.split(".")
        owner = module
        for part in owners:
            owner = getattr(owner, part)
        setattr(owner, name, wrap(getattr(owner, name), armed, when))


class PatchingLoader(importlib.abc.Loader):
    """Loads as the real loader does, then patches."""

    def __init__(self, loader, places):
        self._loader, self._places = loader, places

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module):
        self._loader.exec_module(module)
        patch(module, self._places)

    def __getattr__(self, name):
        return getattr(self._loader, name)


class PatchingFinder(importlib.abc.MetaPathFinder):
    """Finds listed modules where they lie and has them patched."""

    def __init__(self, places):
        self._places = places

    def find_spec(self, fullname, path, target=None):
        places = self._places.get(fullname)
        if places is None:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = PatchingLoader(spec.loader, places)
        return spec


folder = find_folder()
if folder is not None:
    sys.meta_path.insert(0, PatchingFinder(read_places(folder)))
