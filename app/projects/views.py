"""What the service of projects takes and answers."""

import re
from dataclasses import dataclass

PROJECT_ID = re.compile(r"[\w.@+-]{1,64}")


@dataclass(frozen=True, slots=True)
class ProjectView:
    """A project; its id is the `owner` of everything that belongs to it. `created_at` in unix seconds."""

    id: str
    name: str
    max_queued_jobs: int | None
    """Jobs that may wait at a time. None: the installation's limit."""
    max_running_jobs: int | None
    """Jobs that may run at a time. None: the installation's limit."""
    created_at: float
