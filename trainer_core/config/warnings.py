"""What a Config says that works but is hardly meant: told before the job by the service, as events by the steps."""

from collections.abc import Collection
from typing import TYPE_CHECKING

from trainer_core.config.hub_checks import find_hub_warnings
from trainer_core.config.parallel_checks import find_parallel_warnings
from trainer_core.config.tracking_checks import find_tracking_warnings
from trainer_core.config.training_checks import find_training_warnings
from trainer_core.enums import Step
from trainer_core.errors import Problem

if TYPE_CHECKING:
    from trainer_core.config.fields import Config


def find_warnings(config: "Config", *, steps: Collection[Step]) -> list[Problem]:
    """What follows from the Config alone; all of it is about training, so that a job without it has none."""
    if Step.TRAIN not in steps:
        return []
    return [
        *find_hub_warnings(config),
        *find_training_warnings(config),
        *find_tracking_warnings(config),
        *find_parallel_warnings(config),
    ]
