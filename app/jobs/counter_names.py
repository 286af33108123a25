"""What is counted for good, and under which names the totals lie in the table of counters."""

from dataclasses import dataclass

FENCED_WRITES = "fenced_writes"
_ATTEMPTS = "attempts"
LOST = "lost"


@dataclass(frozen=True, slots=True)
class CountedHistogram:
    """A histogram in the table of counters: a row a bucket and label, and one for the sum, in milliseconds."""

    name: str
    bounds: tuple[float, ...]
    """Upper bounds of the buckets, seconds; one more has none."""

    def bucket(self, label: str, index: int) -> str:
        """The counter of one bucket, which does not hold those below it."""
        bound = f"{self.bounds[index]:g}" if index < len(self.bounds) else "inf"
        return f"{self.name}:{label}:{bound}"

    def sum(self, label: str) -> str:
        """The counter of the milliseconds."""
        return f"{self.name}:{label}:milliseconds"

    def observe(self, label: str, seconds: float) -> dict[str, int]:
        """What one observation adds, by counter."""
        index = next((number for number, bound in enumerate(self.bounds) if seconds <= bound), len(self.bounds))
        return {self.bucket(label, index): 1, self.sum(label): max(0, round(seconds * 1000))}


QUEUE_WAIT = CountedHistogram("queue_wait", (0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 14400, 86400))
DISPATCH_LAG = CountedHistogram("dispatch_lag", (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30))
PRIORITY_CLASSES = ("low", "normal", "high")
ALL_LABEL = "all"


def name_priority_class(priority: int) -> str:
    """Below, at or above the default of 0: few enough to be a label."""
    return "normal" if priority == 0 else "high" if priority > 0 else "low"


def name_attempts(outcome: str) -> str:
    """The counter of the attempts that ended so."""
    return f"{_ATTEMPTS}:{outcome}"


def find_outcome(name: str) -> str | None:
    """The outcome whose attempts a counter counts; None for another counter."""
    kind, _, outcome = name.partition(":")
    return outcome if kind == _ATTEMPTS else None
