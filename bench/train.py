"""Compares trainers on the same model, lengths and device: tokens a second, use of the chip, memory, losses.

    python -m bench.train [--cases 8b-lora 1b-full] [--systems finesmith hf-trainer] [--levers] [--losses]

Every run is a process of its own, one after the other. Prints a table and writes
`bench/results/train-<gpu>-<date>.json`. A peer that wants packages of its own has them in a folder:
`--site unsloth=/path/to/site`.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.results_file import FOLDER, write_result
from bench.train_cases import CASES, LEVERS
from bench.train_systems import SYSTEMS

_ASK_FOR_DEVICE = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')"
SETUP = (
    "random weights; log-normal lengths, about 300 tokens in the mean, 32 to 2,048; a token budget of 16,384 where the "
    "system has one, else 8 samples a step; medians of 3 windows of steps after a warm-up; tokens without padding"
)


@dataclass(frozen=True, slots=True)
class Order:
    """One run to make."""

    system: str
    case: str
    lever: str = "all"
    is_loss_run: bool = False


def main() -> int:
    """Runs what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=["8b-lora"])
    parser.add_argument("--systems", nargs="+", choices=list(SYSTEMS), default=["finesmith"])
    parser.add_argument("--levers", nargs="*", choices=list(LEVERS), help="each off or on in turn; none: all of them")
    parser.add_argument("--losses", action="store_true", help="compares the losses of 20 steps with padded ones")
    parser.add_argument("--timeout", type=float, default=150.0, help="seconds for one run")
    parser.add_argument("--site", action="append", default=[], help="system=folder of packages that it alone uses")
    parser.add_argument("--out", type=Path, default=FOLDER)
    options = parser.parse_args()
    sites = dict(each.split("=", 1) for each in options.site)
    orders = [Order(system, case) for case in options.cases for system in options.systems]
    if options.levers is not None:
        names = options.levers or [name for name in LEVERS if name != "all"]
        orders += [Order("finesmith", options.cases[0], lever) for lever in names]
    if options.losses:
        orders += [Order("finesmith", "1b-lora-loss", lever, True) for lever in ("all", "without packing")]
    device = find_device_name()
    found: list[dict[str, Any]] = []
    path: Path | None = None
    for order in orders:
        facts = run(order, site=sites.get(order.system), timeout_seconds=options.timeout)
        found.append({"system": order.system, "case": order.case, "lever": order.lever, **facts})
        print_row(found[-1])
        # After each run: a call that is cut off leaves what it found.
        content = {
            **{"gpu": device, "date": f"{datetime.now(UTC):%Y-%m-%d}"},
            **{"cases": found, "loss_check": compare_losses(found)},
        }
        path = write_result(f"train-{device}", content, setup=SETUP, folder=options.out, path=path)
    print(f"written: {path}")
    return 1 if any("error" in each for each in found) else 0


def run(order: Order, *, site: str | None, timeout_seconds: float) -> dict[str, Any]:
    """The run's own report, or what became of it."""
    command = [sys.executable, "-m", "bench.train_systems", order.system, order.case, "--lever", order.lever]
    if order.is_loss_run:
        command.append("--losses")
    environment = dict(os.environ)
    if site is not None:
        environment["PYTHONPATH"] = os.pathsep.join([site, str(Path.cwd())])
    try:
        process = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_seconds, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        return {"error": f"not done within {timeout_seconds:.0f} s"}
    found = re.search(r"^RESULT (.+)$", process.stdout, re.MULTILINE)
    if found is None:
        return {"error": process.stderr.strip()[-600:]}
    facts: dict[str, Any] = json.loads(found[1])
    return facts


def compare_losses(found: list[dict[str, Any]]) -> dict[str, float] | None:
    """How far the losses of 20 steps are from those of padded samples, plainly computed; None: they were not run."""
    by_lever = {each["lever"]: each["losses"] for each in found if "losses" in each}
    ours, plain = by_lever.get("all"), by_lever.get("without packing")
    if not ours or not plain:
        return None
    differences = [abs(one - other) for one, other in zip(ours, plain, strict=True)]
    return {"largest": round(max(differences), 5), "mean": round(sum(differences) / len(differences), 5)}


def print_row(facts: dict[str, Any]) -> None:
    """One line of the table."""
    name = facts["system"] + ("" if facts["lever"] == "all" else f" ({facts['lever']})")
    if "error" in facts:
        print(f"{facts['case']:<24}{name:<48} failed: {facts['error'][-200:]}", flush=True)
        return
    rate, mfu, memory = (facts.get(key, "") for key in ("tokens_per_second", "mfu", "peak_gib"))
    losses = f" losses {facts['losses'][0]} … {facts['losses'][-1]}" if facts.get("losses") else ""
    print(f"{facts['case']:<24}{name:<48}{rate!s:>8}{mfu!s:>8}{memory!s:>8}{losses}", flush=True)


def find_device_name() -> str:
    """`h200`, `h100`, … or `cpu<number of cores>`."""
    process = subprocess.run([sys.executable, "-c", _ASK_FOR_DEVICE], capture_output=True, text=True, check=True)
    name = process.stdout.strip().lower().replace("nvidia", "").split()
    return name[0] if name else f"cpu{os.cpu_count()}"


if __name__ == "__main__":
    sys.exit(main())
