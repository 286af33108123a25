"""Ids of spans that are known before their spans are made: a step carries its own in its environment."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.id_generator import IdGenerator


class PresetIds:
    """Says which id the next span of this context gets."""

    def __init__(self) -> None:
        self._next: ContextVar[int | None] = ContextVar("finesmith_next_span", default=None)

    @contextmanager
    def next_span(self, span_id: int) -> Iterator[None]:
        """A span that is made meanwhile has this id."""
        reset = self._next.set(span_id)
        try:
            yield
        finally:
            self._next.reset(reset)

    def make_generator(self) -> "IdGenerator":
        """For a tracer provider: random ids but for those that were set. Needs the SDK."""
        from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

        preset = self._next

        class Generator(RandomIdGenerator):
            def generate_span_id(self) -> int:
                return preset.get() or super().generate_span_id()

        return Generator()
