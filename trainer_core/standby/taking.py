"""How a waiting process becomes the one that would have been started for the job."""

import os
import sys
import tempfile
from collections.abc import Mapping, Sequence

from trainer_core.standby.command_line import take_over
from trainer_core.standby.hand_over import HandOver
from trainer_core.standby.privacy import set_traceable


def take_job(hand_over: HandOver, *, entry: Sequence[str], birth_environment: Mapping[str, str]) -> None:
    """Takes over command line, current folder and environment of the job's process, whose program is `entry`.

    What libraries have set in the environment when they were imported stays, as it would had they been imported later.
    Raises OSError and ValueError: the process is of no use then.
    """
    take_over((sys.executable, "-P", *entry, *hand_over.arguments))
    os.chdir(hand_over.folder)
    for name in birth_environment.keys() - hand_over.env.keys():
        os.environ.pop(name, None)
    for name, value in hand_over.env.items():
        if birth_environment.get(name) != value:
            os.environ[name] = value
    sys.argv[1:] = hand_over.arguments
    tempfile.tempdir = None
    set_traceable(True)


def show_readiness(entry: Sequence[str]) -> None:
    """Says `--standby ready` in the command line, for whoever looks at the processes of a host."""
    take_over((sys.executable, "-P", *entry, "--standby", "ready"))
