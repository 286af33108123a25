"""Chooses how progress is shown."""

import sys
from importlib.util import find_spec

from finesmith.progress.lines import LinesView
from finesmith.progress.view import ProgressView, SilentView


def choose_view(*, progress: bool) -> ProgressView:
    """Nothing, a bar (on a terminal, with rich installed) or lines; the latter two on standard error."""
    if not progress:
        return SilentView()
    if not sys.stderr.isatty() or find_spec("rich") is None:
        return LinesView(sys.stderr)
    # Imported here because rich is optional.
    from rich.console import Console

    from finesmith.progress.bar import BarView

    return BarView(Console(stderr=True))
