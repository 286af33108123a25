"""Measures how long a submitted job takes to its first optimizer step, with a stand-by and without; loopback only.

    python -m bench.first_step [--repeat 9] [--only off on]

Starts a service of its own in a temporary folder for each of the two (`FINESMITH_STANDBY`), makes a tiny model on the
spot, runs one job to warm the disk's cache, then measures one job after the other, each on an idle worker: from the
moment the POST is sent. Prints medians and writes `bench/results/first-step-<host kind>-<date>.json`.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.results_file import FOLDER, write_result
from bench.service import Service, follow, run_service, upload
from trainer_core.watchdog import find_descendants
from worker.gpus import find_gpus

NUM_ROWS = 64
GOAL_SECONDS = 1.0
READY = b"\0trainer_core.pipeline\0--standby\0ready\0"
_WAIT_SECONDS = 300.0
_JOURNAL = (
    ("running", "job.running", None),
    ("prepare started", "step.started", "prepare"),
    ("prepare finished", "step.finished", "prepare"),
    ("train started", "step.started", "train"),
    ("model and trainer built", "decision", "train"),
    ("first step", "progress", "train"),
)
"""Name, event's type and step; of several the first, of decisions the last before the first step."""


def main() -> int:
    """Measures and returns the exit status: 1 when the goal is missed with a stand-by."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--only", choices=["off", "on"], nargs="+", default=["off", "on"])
    parser.add_argument("--out", type=Path, default=FOLDER)
    options = parser.parse_args()
    gpus = find_gpus()
    figures = {}
    for standby in options.only:
        load_before = os.getloadavg()[0]
        trials = measure(standby, repeat=options.repeat)
        medians = {name: statistics.median(trial[name] for trial in trials) for name in trials[0]}
        figures[f"standby {standby}"] = {"medians": medians, "load_before": load_before, "trials": trials}
        print(f"standby {standby}: " + ", ".join(f"{name} {value:.3f}" for name, value in medians.items()))
    where = gpus[0].name if gpus else "the CPU"
    setup = (
        f"`finesmith-server up`, a Llama of 0.4 M parameters with LoRA on {where}, {NUM_ROWS} rows; seconds since POST"
    )
    name = f"first-step-{'gpu' if gpus else f'cpu{os.cpu_count()}'}"
    print(f"written: {write_result(name, {'goal_seconds': GOAL_SECONDS, **figures}, setup=setup, folder=options.out)}")
    warm = figures.get("standby on")
    return 0 if warm is None or warm["medians"]["first step"] <= GOAL_SECONDS else 1


def measure(standby: str, *, repeat: int) -> list[dict[str, float]]:
    """Seconds since the POST, by stage, of each job."""
    with run_service("up", standby=standby) as service:
        make_model(service.folder / "models" / "tiny")
        rows = [{"text_parts": [f"What is {n} plus one?", f"The answer is {n + 1}."]} for n in range(NUM_ROWS)]
        file_id = upload(service, "\n".join(map(json.dumps, rows)))
        body = build_job(file_id)
        run_one(service, body)
        trials = []
        for _ in range(repeat):
            if standby == "on":
                wait_until_ready()
            trials.append(run_one(service, body))
        if any(bool(trial["warm"]) != (standby == "on") for trial in trials):
            raise SystemExit(f"jobs were not served as they should have been: {trials}")
        return trials


def build_job(file_id: str) -> dict[str, Any]:
    """A short LoRA training."""
    config = {
        "model_name_or_path": "local:tiny",
        "dataset_key": "general",
        "apply_lora": True,
        "max_steps": 3,
        "logging_steps": 1,
        "warmup_steps": 0,
        "max_length": 64,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 1,
    }
    return {"config": config, "steps": ["prepare", "train"], "training_file": file_id}


def run_one(service: Service, body: Mapping[str, Any]) -> dict[str, float]:
    """Runs one job to its end; returns its stages."""
    sent_at = time.time()
    job_id = service.call("POST", "/v1/jobs", body=body)["id"]
    seconds = {"answered": time.time() - sent_at}
    seen: list[dict[str, Any]] = []
    for event in follow(service, job_id):
        seen.append(event)
        if event["type"] == "progress":
            seconds.setdefault("first step seen", time.time() - sent_at)
    if seen[-1]["type"] != "job.succeeded":
        raise SystemExit(f"the job did not succeed: {seen[-1]}")
    seconds |= read_journal(seen, sent_at=sent_at)
    started = [event["data"]["warm"] for event in seen if event["type"] == "step.started"]
    return {**seconds, "warm": float(all(started))}


def read_journal(events: Sequence[Mapping[str, Any]], *, sent_at: float) -> dict[str, float]:
    """When each stage was reached, by the time that its event was written."""
    first_step = next(event for event in events if event["type"] == "progress")
    seconds = {}
    for name, event_type, step in _JOURNAL:
        found = [each for each in events if each["type"] == event_type and each["step"] == step]
        before = [each for each in found if each["created_at"] <= first_step["created_at"]]
        chosen = before[-1] if event_type == "decision" else before[0]
        seconds[name] = chosen["created_at"] - sent_at
    return seconds


def wait_until_ready() -> None:
    """Waits until a stand-by waits below this process."""
    _wait(lambda: any(READY in _read_command(pid) for pid in find_descendants()))


def make_model(folder: Path) -> None:
    """Writes a tiny model and its tokenizer."""
    from tests.support.tiny_models import build_tiny_llama

    build_tiny_llama(folder)


def _read_command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _WAIT_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"no stand-by was ready within {_WAIT_SECONDS:.0f} s")
        time.sleep(0.05)


if __name__ == "__main__":
    raise SystemExit(main())
