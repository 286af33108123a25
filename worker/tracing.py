"""What a job leaves in logs and traces: every line names job and attempt, and each part of the work is a span."""

import functools
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ParamSpec, Self, TypeVar

import structlog
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, Status, StatusCode, TraceFlags, Tracer
from structlog.contextvars import bound_contextvars

from app.jobs.commands import Outcome
from app.jobs.views import Claim
from app.log_redaction import hide_secrets
from app.telemetry import build_tracer_provider, find_traceparent, is_tracing_on
from trainer_core.enums import Step
from trainer_core.events import EventRecord
from trainer_core.trace_context import ATTEMPT_TRACE, TRACEPARENT, derive_step_traceparent
from worker.span_ids import PresetIds

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

log = structlog.get_logger("finesmith.worker")

_FLUSH_SECONDS = 0.5
"""How long the next job waits for the spans of the last one to be sent."""

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(slots=True)
class _Attempt:
    """The attempt that this context works at."""

    traceparent: str | None
    """What its steps go on with; None: its submission had no trace."""
    tracer: "JobTracer | None" = None
    """None: no spans are made."""
    steps: dict[str, Span] = field(default_factory=dict)
    """The spans of the steps that run."""


_woken: ContextVar["tuple[JobTracer, int] | None"] = ContextVar("finesmith_woken", default=None)
_attempt: ContextVar[_Attempt | None] = ContextVar("finesmith_attempt", default=None)


class JobTracer:
    """Makes the spans of the jobs of one process; without a provider none."""

    def __init__(self, provider: "TracerProvider | None" = None, *, ids: PresetIds | None = None) -> None:
        self._provider = provider
        self.ids = ids or PresetIds()
        self.tracer: Tracer | None = None if provider is None else provider.get_tracer("finesmith.worker")

    @classmethod
    def build(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """By the OTEL_* variables. Build it after the fork: it starts a thread."""
        if not is_tracing_on(environ):
            return cls()
        ids = PresetIds()
        return cls(build_tracer_provider("finesmith-worker", ids=ids.make_generator()), ids=ids)

    @contextmanager
    def follow_wakeup(self, job_id: str) -> Iterator[None]:
        """The job of a wake-up stands in every line from here on; its claim is timed from here."""
        reset = _woken.set((self, time.time_ns()))
        try:
            with bound_contextvars(job_id=job_id):
                yield
        finally:
            _woken.reset(reset)
            self._flush()

    def _flush(self) -> None:
        """Sends what was gathered now, for the process may be stopped soon; one that is away holds up little."""
        if self._provider is not None:
            thread = threading.Thread(target=self._provider.force_flush, name="trace-flush", daemon=True)
            thread.start()
            thread.join(_FLUSH_SECONDS)


@contextmanager
def watch_attempt(claim: Claim) -> Iterator[None]:
    """Around all the work at one attempt: its number in every line, its secrets in none, its spans in one trace."""
    woken = _woken.get()
    with bound_contextvars(job_id=claim.job_id, attempt=claim.attempt), hide_secrets(claim.secrets.values()):
        if woken is None or (tracer := woken[0].tracer) is None:
            with _working_at(_Attempt(claim.traceparent)):
                yield
            return
        job_tracer, woken_at = woken
        parent = trace.set_span_in_context(NonRecordingSpan(_parse(claim.traceparent)))
        attributes: dict[str, str | int] = {"finesmith.job.id": claim.job_id, "finesmith.attempt": claim.attempt}
        tracer.start_span("job.claim", parent, start_time=woken_at, attributes=attributes).end()
        with tracer.start_as_current_span("job.attempt", parent, attributes=attributes):
            attempt = _Attempt(find_traceparent(None), job_tracer)
            with _working_at(attempt):
                try:
                    yield
                finally:
                    for span in attempt.steps.values():
                        span.set_status(Status(StatusCode.ERROR, "the step did not finish"))
                        span.end()


def note_outcome(outcome: Outcome) -> None:
    """Tells, in the log and on the attempt's span, how it ended."""
    log.info("attempt.ended", outcome=outcome.kind, code=outcome.error.code if outcome.error else None)
    attempt = _attempt.get()
    if attempt is None or attempt.tracer is None:
        return
    span = trace.get_current_span()
    span.set_attribute("finesmith.outcome", outcome.kind)
    if outcome.error is not None:
        span.set_attribute("error.type", outcome.error.code)
        span.set_status(Status(StatusCode.ERROR))


def follow_step(record: EventRecord) -> None:
    """Begins and ends the spans of steps by what they tell of themselves."""
    attempt = _attempt.get()
    if attempt is None or attempt.tracer is None or attempt.tracer.tracer is None or record.step not in set(Step):
        return
    step, at = Step(record.step), round(record.created_at * 1e9) or None
    if record.type == "step.started" and step not in attempt.steps:
        assert attempt.traceparent is not None
        with attempt.tracer.ids.next_span(_parse(derive_step_traceparent(attempt.traceparent, step)).span_id):
            attempt.steps[step] = attempt.tracer.tracer.start_span(f"step.{step}", start_time=at)
    elif record.type == "step.finished" and step in attempt.steps:
        attempt.steps.pop(step).end(at)


def trace_environment() -> dict[str, str]:
    """What a pipeline's environment says of the trace that it belongs to; nothing when it belongs to none."""
    attempt = _attempt.get()
    if attempt is None or attempt.traceparent is None:
        return {}
    given = {TRACEPARENT: attempt.traceparent}
    return given if attempt.tracer is None else {**given, ATTEMPT_TRACE: attempt.traceparent}


def traced(name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorator: each call within an attempt is a span of this name."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            attempt = _attempt.get()
            if attempt is None or attempt.tracer is None or attempt.tracer.tracer is None:
                return function(*args, **kwargs)
            with attempt.tracer.tracer.start_as_current_span(name):
                return function(*args, **kwargs)

        return call

    return decorate


@contextmanager
def _working_at(attempt: _Attempt) -> Iterator[None]:
    reset = _attempt.set(attempt)
    try:
        log.info("attempt.started")
        yield
    finally:
        _attempt.reset(reset)


def _parse(traceparent: str | None) -> SpanContext:
    """The context of a valid `traceparent`; without one an invalid context, with which a new trace begins."""
    if traceparent is None:
        return trace.INVALID_SPAN_CONTEXT
    _, trace_id, span_id, flags = traceparent.split("-")
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16)))
