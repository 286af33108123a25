"""Compares a training through the whole service with the bare training loop on the same model and lengths.

    python -m bench.train_through_service [--case 1b-full]

The loop is that of `bench.train`. The service (`finesmith-server up`, loopback only) gets a job with the same Config,
on rows of text that become samples of the same lengths; its rate is that of the job's own metrics.
The fewer milliseconds a step takes, the more the service's part of them would show. Prints both and writes
`bench/results/train-through-service-<device>-<date>.json`. Exit status 1: the service reaches less than 98 %.
"""

import argparse
import sys
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from bench.results_file import FOLDER, write_result
from bench.service import follow, run_service, upload
from bench.train import Order, find_device_name, run
from bench.train_cases import CASES, Case, write_model, write_rows
from bench.train_measuring import find_device

NUM_SAMPLES = 3_000
GOAL = 0.98


def main() -> int:
    """Measures both, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=[name for name in CASES if "8b" not in name], default="1b-full")
    parser.add_argument("--timeout", type=float, default=150.0, help="seconds for the loop")
    parser.add_argument("--out", type=Path, default=FOLDER)
    options = parser.parse_args()
    bare = run(Order("finesmith", options.case), site=None, timeout_seconds=options.timeout)
    if "error" in bare:
        raise SystemExit(f"the loop did not run: {bare['error']}")
    windows = measure_service(CASES[options.case])
    rate = median(windows)
    share = rate / bare["tokens_per_second"]
    print(f"{options.case}: loop {bare['tokens_per_second']}, service {rate:.0f} tokens/s: {share:.1%}")
    figures = {"case": options.case, "bare": bare, "service": {"tokens_per_second": rate, "windows": windows}}
    setup = "random weights, the same lengths; medians of windows of steps after a warm-up; goal 98 %"
    name = f"train-through-service-{find_device_name()}"
    print(f"written: {write_result(name, {**figures, 'share': share}, setup=setup, folder=options.out)}")
    return 0 if share >= GOAL else 1


def measure_service(case: Case) -> list[float]:
    """Tokens a second of the windows of a job after the warm-up."""
    with run_service("up") as service:
        write_model(case.shape, service.folder / "models" / "bench", device=find_device())
        write_rows(case.shape, service.folder / "rows.jsonl", count=NUM_SAMPLES)
        file_id = upload(service, (service.folder / "rows.jsonl").read_text())
        body = {"config": build_config(case), "steps": ["prepare", "train"], "training_file": file_id}
        job_id = service.call("POST", "/v1/jobs", body=body)["id"]
        events = list(follow(service, job_id))
    if events[-1]["type"] != "job.succeeded":
        raise SystemExit(f"the job did not succeed: {events[-1]}")
    for event in events:
        if event["type"] == "decision":
            print(f"  {event['message']}")
    metrics = [each["data"] for each in events if each["type"] == "metrics" and "tokens_per_second" in each["data"]]
    return [
        later["tokens_per_second"]
        for earlier, later in pairwise(metrics)
        if earlier["global_step"] >= case.num_warmup_steps and later["global_step"] > earlier["global_step"]
    ]


def build_config(case: Case) -> dict[str, Any]:
    """As the loop's, and what names the model and the rows."""
    num_steps = case.num_warmup_steps + (case.num_windows + 2) * case.num_steps
    return {
        **{"model_name_or_path": "local:bench", "dataset_key": "general", "max_steps": num_steps, "warmup_steps": 0},
        **{"learning_rate": 1e-4, "optim": "adamw_torch_fused", "logging_steps": case.num_steps},
        **{"save_steps": 100_000, "max_length": 2048, "per_device_train_batch_size": case.batch_size},
        **{"torch_compile": "on" if find_device() == "cuda" and "tokens_per_batch" in case.config else "auto"},
        **case.config,
    }


if __name__ == "__main__":
    sys.exit(main())
