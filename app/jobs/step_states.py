"""How events and the end of an attempt move a job's steps and progress; no database."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

from pydantic import JsonValue
from pydantic_core import to_json

from app.jobs.commands import NewEvent
from app.jobs.storable import make_storable, make_text_storable
from app.jobs.views import JobError, Progress, StepView
from app.states import StepStatus

_INTEGER_FIGURES = frozenset({"global_step", "total_steps"})
_FIGURES = tuple(field.name for field in fields(Progress))
_PUSHED_FIGURES = ("repository", "commit", "url")
_MAX_FACTS_BYTES = 64 << 10
_DONE = frozenset({StepStatus.SUCCEEDED, StepStatus.SKIPPED})


@dataclass(frozen=True, slots=True)
class StepStates:
    """What events change of a job: the running step's name, all steps, the newest figures."""

    step: str | None
    steps: tuple[StepView, ...]
    progress: Progress

    def follow(self, events: Sequence[NewEvent], *, now: float) -> "StepStates":
        """The states after these events; an event without a time counts as `now`. Unknown steps change nothing."""
        states = self
        for event in events:
            if event.type.startswith("step.") and event.step is not None:
                states = states._follow_step(event, at=event.created_at or now)
            elif event.type == "artifact.created" and "repository" in event.data:
                states = states._note_push(event)
            elif event.type in ("progress", "metrics"):
                states = replace(states, progress=_merge_figures(states.progress, event.data))
        return states

    def _note_push(self, event: NewEvent) -> "StepStates":
        """Adds what was pushed to a hub to the facts of the step that made it; a checkpoint is no result."""
        current = next((step for step in self.steps if step.name == event.step), None)
        if current is None or "global_step" in event.data:
            return self
        known = (current.facts or {}).get("pushed")
        pushed = {
            **(known if isinstance(known, dict) else {}),
            str(event.data.get("name")): {name: event.data.get(name) for name in _PUSHED_FIGURES},
        }
        facts = _read_facts({"facts": {**(current.facts or {}), "pushed": pushed}})
        return replace(self, steps=_replace_step(self.steps, replace(current, facts=facts or current.facts)))

    def _follow_step(self, event: NewEvent, *, at: float) -> "StepStates":
        current = next((step for step in self.steps if step.name == event.step), None)
        if current is None:
            return self
        if event.type == "step.started":
            moved = StepView(current.name, StepStatus.RUNNING, started_at=at)
            return replace(self, step=current.name, steps=_replace_step(self.steps, moved))
        if event.type == "step.finished":
            facts = _read_facts(event.data)
            moved = replace(current, status=StepStatus.SUCCEEDED, finished_at=at, error=None, facts=facts)
        elif event.type == "step.skipped" and current.status is not StepStatus.SUCCEEDED:
            moved = StepView(current.name, StepStatus.SKIPPED, finished_at=at, facts=_read_facts(event.data))
        else:
            return self
        running = None if self.step == current.name else self.step
        return StepStates(running, _replace_step(self.steps, moved), replace(self.progress, eta_seconds=None))


def complete_steps(steps: Sequence[StepView], *, now: float) -> tuple[StepView, ...]:
    """The steps of a job that succeeded: every one is done, even if the event that said so was lost."""
    return tuple(
        step if step.status in _DONE else replace(step, status=StepStatus.SUCCEEDED, finished_at=now) for step in steps
    )


def fail_steps(steps: Sequence[StepView], error: JobError, *, now: float) -> tuple[StepView, ...]:
    """The steps of a job that failed: the step that the error names, and any that was running."""
    return tuple(
        replace(step, status=StepStatus.FAILED, finished_at=now, error=error)
        if step.status is StepStatus.RUNNING or (step.name == error.step and step.status not in _DONE)
        else step
        for step in steps
    )


def cancel_steps(steps: Sequence[StepView], *, now: float) -> tuple[StepView, ...]:
    """The steps of a cancelled job: what was not done will not be."""
    return tuple(
        step
        if step.status in _DONE
        else replace(step, status=StepStatus.CANCELLED, finished_at=now if step.started_at else None)
        for step in steps
    )


def reset_steps(steps: Sequence[StepView]) -> tuple[StepView, ...]:
    """The steps of a job that goes back to the queue: what is done stays, the rest waits again."""
    return tuple(step if step.status in _DONE else StepView(step.name, StepStatus.PENDING) for step in steps)


def _replace_step(steps: Sequence[StepView], moved: StepView) -> tuple[StepView, ...]:
    return tuple(moved if step.name == moved.name else step for step in steps)


def _read_facts(data: Mapping[str, JsonValue]) -> Mapping[str, JsonValue] | None:
    facts = data.get("facts")
    if not isinstance(facts, dict):
        return None
    storable = {make_text_storable(name): make_storable(value) for name, value in facts.items()}
    # The job's row is read at every look at the job; the event keeps them all.
    return storable if len(to_json(storable)) <= _MAX_FACTS_BYTES else None


def _merge_figures(progress: Progress, data: Mapping[str, JsonValue]) -> Progress:
    changed: dict[str, int | float | None] = {}
    for name in _FIGURES:
        value = data.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            known = int(value) if name in _INTEGER_FIGURES and math.isfinite(value) else float(value)
            changed[name] = known if math.isfinite(known) else None
    return replace(progress, **changed)  # type: ignore[arg-type]
