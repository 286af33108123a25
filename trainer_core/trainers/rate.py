"""How fast a training goes, without the time that evaluation and saving take."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class TrainingRate:
    """Counts the seconds and tokens of optimizer steps; reading the clock is its only contact with the world."""

    clock: Callable[[], float] = time.monotonic
    num_steps: int = 0
    seconds: float = 0.0
    _mark: float = field(default=0.0)
    _num_tokens_seen: int = 0
    _window_seconds: float = 0.0
    _window_tokens: int = 0

    def start(self, *, num_tokens_seen: int) -> None:
        """Call when training begins; `num_tokens_seen` is what a run before this one had seen."""
        self._mark = self.clock()
        self._num_tokens_seen = num_tokens_seen

    def pause(self) -> None:
        """Call after an evaluation or a save: their time does not count."""
        self._mark = self.clock()

    def finish_step(self, *, num_tokens_seen: int) -> None:
        """Call after each optimizer step with the tokens seen since the very beginning."""
        self.settle()
        self._window_tokens += num_tokens_seen - self._num_tokens_seen
        self._num_tokens_seen = num_tokens_seen
        self.num_steps += 1

    def settle(self) -> None:
        """Call when the device has done what it was given: the step finished last had been given to it before."""
        now = self.clock()
        self.seconds += now - self._mark
        self._window_seconds += now - self._mark
        self._mark = now

    def tokens_per_second(self) -> float | None:
        """Non-padding tokens a second since `begin_window`; None before the first step in it."""
        return self._window_tokens / self._window_seconds if self._window_seconds > 0 else None

    def begin_window(self) -> None:
        """Forgets the tokens and seconds that `tokens_per_second` is about."""
        self._window_seconds, self._window_tokens = 0.0, 0

    def eta_seconds(self, *, num_steps_left: int) -> float | None:
        """Seconds that the steps left will take at the mean of this run; None before the first step."""
        return self.seconds / self.num_steps * num_steps_left if self.num_steps else None
