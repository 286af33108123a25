"""The W3C trace context that a step finds in its environment, so that a user's code can go on with the job's trace."""

import hashlib
import os
from collections.abc import Mapping

from trainer_core.enums import Step

TRACEPARENT = "TRACEPARENT"
ATTEMPT_TRACE = "FINESMITH_ATTEMPT_TRACE"
"""Set by a worker that makes spans: the context of the attempt, of which each step is a child."""


def build_trace_environment(step: Step, *, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What to add to a step's environment; nothing where no worker makes spans."""
    attempt_trace = environ.get(ATTEMPT_TRACE)
    return {} if attempt_trace is None else {TRACEPARENT: derive_step_traceparent(attempt_trace, step)}


def derive_step_traceparent(attempt_trace: str, step: Step) -> str:
    """The context of a step's span: its id follows from the attempt's, so that the pipeline, which has no tracer, and
    the worker, which hears of the step later, name the same one."""
    version, trace_id, span_id, flags = attempt_trace.split("-")
    digest = hashlib.sha256(f"{trace_id}-{span_id}-{step.value}".encode()).hexdigest()
    return f"{version}-{trace_id}-{digest[:16]}-{flags}"
