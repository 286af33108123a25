"""What the demo found: its judgement, the tables, and `demo-report.json`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from examples.demo.jobs import StepTime
from examples.demo.measuring import Measurements

LEAST_GAIN = 0.3
"""Nats by which tuning the shipped model must lower the loss."""
LARGEST_FUSING_ERROR = 0.02
LARGEST_QUANTIZING_SHARE = 0.5
"""Of what tuning gained, this much may be lost by quantizing."""


@dataclass(frozen=True)
class Report:
    """Everything that the demo shows."""

    seconds: float
    """From the start of the demo to its end."""
    steps: Sequence[StepTime]
    measurements: Measurements
    artifacts: Sequence[Path]
    """Folders or files of the tuning job."""
    least_gain: float = LEAST_GAIN

    @property
    def problems(self) -> list[str]:
        """What is wrong; empty when the demo succeeded."""
        return find_problems(self.measurements.losses, least_gain=self.least_gain)


def find_problems(losses: Mapping[str, float], *, least_gain: float = LEAST_GAIN) -> list[str]:
    """Compares the four losses with the bounds; a loss that is not a number breaks each bound it is in."""
    base, tuned, fused, quantized = (losses[name] for name in ("base", "tuned", "fused", "quantized"))
    problems = []
    if not base - tuned >= least_gain:
        problems.append(f"tuning lowered the loss by {base - tuned:.3f}, less than {least_gain}")
    if not abs(fused - tuned) <= LARGEST_FUSING_ERROR:
        problems.append(f"the fused model's loss is {abs(fused - tuned):.4f} off, more than {LARGEST_FUSING_ERROR}")
    if not quantized - tuned <= LARGEST_QUANTIZING_SHARE * (base - tuned):
        problems.append(f"quantizing lost {quantized - tuned:.3f} of the {base - tuned:.3f} that tuning gained")
    return problems


def write_report(report: Report, path: Path) -> None:
    """Writes the facts as JSON."""
    facts = {
        "status": "failed" if report.problems else "succeeded",
        "problems": report.problems,
        "seconds": round(report.seconds, 1),
        "steps": [
            {
                "job": step.job,
                "name": step.name,
                "seconds": round(step.seconds, 2),
                "import_seconds": round(step.import_seconds, 2),
            }
            for step in report.steps
        ],
        "eval_loss": {name: round(loss, 5) for name, loss in report.measurements.losses.items()},
        "eval_rows": report.measurements.num_rows,
        "eval_tokens": report.measurements.num_tokens,
        "answers": report.measurements.answers,
        "artifacts": [{"path": str(folder), "bytes": count_bytes(folder)} for folder in report.artifacts],
    }
    path.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def print_report(report: Report, console: Console) -> None:
    """Prints the tables, the two answers and the judgement."""
    steps = Table("job", "step", "seconds", "of which imports", title="Steps")
    for step in report.steps:
        steps.add_row(step.job, step.name, f"{step.seconds:.1f}", f"{step.import_seconds:.1f}")
    found = report.measurements
    losses = Table("model", "evaluation loss", title=f"{found.num_rows} held-out rows, {found.num_tokens} tokens")
    for name, loss in found.losses.items():
        losses.add_row(name, f"{loss:.4f}")
    sizes = Table("artifact", "MB on disk", title="Artifacts")
    for folder in report.artifacts:
        sizes.add_row(str(folder), f"{count_bytes(folder) / 1e6:.2f}")
    for table in (steps, losses, sizes):
        console.print(table)
    for name, answer in found.answers.items():
        console.print(f"[bold]{name}[/bold] answers: ", end="")
        console.print(answer or "(nothing)", markup=False, highlight=False)
    for problem in report.problems:
        console.print(f"[red]wrong:[/red] {problem}")
    if not report.problems:
        console.print(f"[green]All bounds hold.[/green] {report.seconds:.0f} s in all.")


def count_bytes(folder: Path) -> int:
    """Bytes of all files below the folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
