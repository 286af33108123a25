"""The steps of a pipeline that were started ahead of its job: each is used for its step or ended, never twice."""

from collections.abc import Collection, Mapping

from trainer_core.attempt.log_sink import LogSink
from trainer_core.attempt.secrets_line import format_secrets
from trainer_core.enums import Step
from trainer_core.launch.base import LaunchRequest
from trainer_core.launch.step_process import StepProcess
from trainer_core.standby.hand_over import HandOver
from trainer_core.standby.warm_step import WarmStep


class WarmSteps:
    """Those that still wait; none in a pipeline that was started for its job."""

    def __init__(self, steps: Collection[WarmStep] = ()) -> None:
        self._steps = {step.step: step for step in steps}

    @property
    def pids(self) -> tuple[int, ...]:
        """Processes that must be spared when what a step left behind is killed."""
        return tuple(step.pid for step in self._steps.values())

    def start(
        self, request: LaunchRequest, *, env: Mapping[str, str], secrets: Mapping[str, str], sink: LogSink
    ) -> StepProcess | None:
        """Hands the step to the process that waits for it; None when there is none, or it died while it waited.

        `env`: the whole environment of the step.
        """
        warm = self._steps.pop(request.step, None)
        if warm is None:
            return None
        popen = warm.take(HandOver(request.arguments, str(request.workspace), env))
        return None if popen is None else StepProcess(popen, secrets_lines=format_secrets(secrets), sink=sink)

    def end(self, *, but: Collection[Step] = ()) -> None:
        """Ends those that are not needed: each holds half a GiB."""
        for step in set(self._steps) - set(but):
            self._steps.pop(step).end()
