"""Trains a small Llama by every strategy, kills it, resumes it, and compares the losses with plain training.

python -m bench.one_gpu_strategies --out bench/results/one-gpu-strategies.json    one GPU, 6 minutes
python -m bench.one_gpu_strategies --num-gpus 2 --out …                           two: DDP, FSDP and the stages
python -m bench.one_gpu_strategies --tiny --only lora-zero-2-none                 anywhere, a single one
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from bench.train_smoke import LLAMA_1B, TINY, KeptEvents, Scale, describe_machine, make_inputs
from trainer_core.config import Config, build_config
from trainer_core.ranks import find_rank

NUM_STEPS = 8
SAVED_AT = 4
KILLED_AT = 6
FIRST_PORT = 21_000
MOST_RELATIVE_DIFFERENCE = 0.02
"""Between a strategy's losses and plain training's: other sums, and fp32 masters of 16-bit weights with DeepSpeed."""
MOST_RESUMED_DIFFERENCE = 0.005
"""Between the losses of the killed run and of the resumed one at the same steps."""

SMALL = replace(
    LLAMA_1B,
    shape={**LLAMA_1B.shape, "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16},
    num_rows=128,
    words_per_row=400,
    max_length=512,
)


@dataclass(frozen=True, slots=True)
class Case:
    """One way to train."""

    name: str
    values: Mapping[str, object]
    wanted: str
    """The strategy that must be found."""


@dataclass(slots=True)
class Outcome:
    """What a case showed."""

    name: str
    strategy: str | None = None
    losses: dict[int, float] = field(default_factory=dict)
    resumed_losses: dict[int, float] = field(default_factory=dict)
    resumed_from: str | None = None
    seconds_per_step: float | None = None
    peak_gib: float | None = None
    wall_seconds: float = 0.0
    difference: float | None = None
    resumed_difference: float | None = None
    checkpoint_bytes: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def list_cases(num_gpus: int) -> Iterator[Case]:
    """The plain runs first: the others are compared with them."""
    for kind, values in (("lora", {"apply_lora": True}), ("full", {})):
        common: dict[str, object] = {**values, "learning_rate": 1e-3 if kind == "lora" else 5e-5}
        yield Case(f"{kind}-plain", common, "single" if num_gpus == 1 else "ddp")
        for stage in (1, 2, 3):
            for offload in ("none", "optimizer", "all")[: 3 if stage == 3 else 2]:
                more = {"deepspeed_stage": stage, "deepspeed_offload": offload}
                yield Case(f"{kind}-zero-{stage}-{offload}", common | more, f"zero-{stage}")
        for strategy in ("full_shard", "shard_grad_op") if num_gpus > 1 else ("full_shard",):
            for offload in (False, True):
                more = {"fsdp_strategy": strategy, "fsdp_offload": offload}
                name = f"{kind}-{strategy}-{'offload' if offload else 'none'}"
                yield Case(name, common | more, "fsdp")
    qlora = {"apply_lora": True, "load_in_4bit": True, "learning_rate": 1e-3}
    if torch.cuda.is_available():
        yield Case("qlora-plain", qlora, "single" if num_gpus == 1 else "ddp")
        yield Case("qlora-zero-2-none", qlora | {"deepspeed_stage": 2, "deepspeed_offload": "none"}, "zero-2")


def main() -> None:
    """Runs all cases, each in processes of its own; ends with status 1 when one of them is not as it must be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a tiny model, for a machine without a GPU")
    parser.add_argument("--num-gpus", type=int, default=1, help="processes of each training")
    parser.add_argument(
        "--at-once", type=int, default=3, help="cases that run at the same time; times are told as such"
    )
    parser.add_argument("--only", action="append", help="names of cases; the plain ones always run")
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    parser.add_argument("--run-case", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--kill", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run_case:
        train_case(options)
        return
    folder = Path(tempfile.mkdtemp(prefix="strategies-"))
    try:
        outcomes = run_all(options, folder=folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    result = {"machine": describe_machine(), "num_gpus": options.num_gpus, "cases_at_once": options.at_once}
    text = json.dumps(result | {"cases": [asdict(each) for each in outcomes]}, indent=1, default=str)
    print(text)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text + "\n")
    failed = [f"{each.name}: {problem}" for each in outcomes for problem in each.problems]
    print("\n".join(failed) or "all as they must be")
    sys.exit(1 if failed else 0)


def run_all(options: argparse.Namespace, *, folder: Path) -> list[Outcome]:
    """Every case, in order; DeepSpeed's host optimizer is compiled once before."""
    scale = choose_scale(options)
    make_inputs(scale, folder, KeptEvents())
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    cases = [each for each in list_cases(options.num_gpus) if is_wanted(each, options.only)]
    started_at = time.monotonic()
    build = "from trainer_core.trainers.host_optimizer import can_build_host_adam as b; print('host AdamW:', b())"
    subprocess.run([sys.executable, "-c", build], check=False)
    print(f"compiled in {time.monotonic() - started_at:.0f} s", flush=True)
    with ThreadPoolExecutor(options.at_once) as pool:
        outcomes = list(pool.map(lambda case: run_case(case, options, folder=folder), cases))
    plain = {each.name.split("-")[0]: each.losses for each in outcomes if each.name.endswith("-plain")}
    for case, outcome in zip(cases, outcomes, strict=True):
        judge(outcome, case=case, plain=plain[case.name.split("-")[0]])
    return outcomes


def is_wanted(case: Case, names: list[str] | None) -> bool:
    """Whether a case runs: one that is named, and the plain one of its kind."""
    return names is None or any(case.name == name or case.name == f"{name.split('-')[0]}-plain" for name in names)


def choose_scale(options: argparse.Namespace) -> Scale:
    """The model and the data."""
    return replace(TINY, num_rows=64) if options.tiny else SMALL


def run_case(case: Case, options: argparse.Namespace, *, folder: Path) -> Outcome:
    """Trains until it is killed, then once more to the end."""
    outcome = Outcome(case.name)
    started_at = time.monotonic()
    launcher = [sys.executable]
    # FSDP wants a launcher also for one process: one shard, which offloading moves to host memory.
    if options.num_gpus > 1 or "fsdp_strategy" in case.values:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={options.num_gpus}"]
    module = [*launcher, "-m", "bench.one_gpu_strategies", "--run-case", case.name, "--folder", str(folder)]
    module += ["--num-gpus", str(options.num_gpus), *(["--tiny"] if options.tiny else [])]
    for suffix in (["--kill"], []):
        done = subprocess.run([*module, *suffix], capture_output=True, text=True, check=False)
        records = read_records(folder / f"{case.name}{'-killed' if suffix else ''}.jsonl")
        losses = {each["global_step"]: each["loss"] for each in records if "loss" in each}
        if suffix:
            outcome.losses = losses
            outcome.checkpoint_bytes = measure_checkpoint(folder / case.name / f"checkpoint-{SAVED_AT}")
        else:
            outcome.resumed_losses = losses
        for record in records:
            outcome.strategy = record.get("strategy", outcome.strategy)
            outcome.peak_gib = record.get("peak_memory_gib", outcome.peak_gib)
            outcome.resumed_from = record.get("resumed_from", outcome.resumed_from)
            outcome.seconds_per_step = record.get("seconds_per_step", outcome.seconds_per_step)
            outcome.warnings += [record["warning"]] if "warning" in record else []
        if done.returncode != 0 and not suffix:
            outcome.problems.append(f"ended with {done.returncode}: {done.stderr[-1500:]}")
        elif suffix and KILLED_AT not in losses:
            outcome.problems.append(f"did not reach step {KILLED_AT}: {done.stderr[-1500:]}")
    shutil.rmtree(folder / case.name, ignore_errors=True)
    outcome.wall_seconds = round(time.monotonic() - started_at, 1)
    print(f"{case.name}: {outcome.strategy}, {outcome.wall_seconds} s, {outcome.peak_gib} GiB", flush=True)
    return outcome


def judge(outcome: Outcome, *, case: Case, plain: Mapping[int, float]) -> None:
    """Adds what is not as it must be."""
    if outcome.strategy not in (case.wanted, None if case.wanted == "single" else case.wanted):
        outcome.problems.append(f"trained by {outcome.strategy}, not by {case.wanted}")
    together = outcome.losses | outcome.resumed_losses
    outcome.difference = compare(together, plain)
    if set(together) != set(range(1, NUM_STEPS + 1)):
        outcome.problems.append(f"losses of the steps {sorted(together)} only")
    if outcome.difference is None or not outcome.difference <= MOST_RELATIVE_DIFFERENCE:
        outcome.problems.append(f"losses differ from plain training's by {outcome.difference}")
    outcome.resumed_difference = compare(outcome.resumed_losses, outcome.losses)
    if outcome.resumed_from != f"checkpoint-{SAVED_AT}":
        outcome.problems.append(f"resumed from {outcome.resumed_from}")
    if outcome.resumed_difference is None or not outcome.resumed_difference <= MOST_RESUMED_DIFFERENCE:
        outcome.problems.append(f"resumed losses differ by {outcome.resumed_difference}")


def compare(losses: Mapping[int, float], others: Mapping[int, float]) -> float | None:
    """The largest relative difference at a step that both have; None without one."""
    shared = set(losses) & set(others)
    return max((abs(losses[step] / others[step] - 1) for step in shared), default=None)


def read_records(path: Path) -> list[dict[str, Any]]:
    """What a process told before it ended; a last line cut short is left out."""
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def measure_checkpoint(folder: Path) -> dict[str, int]:
    """Bytes of each file."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


class WrittenEvents:
    """Writes what counts of a training's events, a line each, at once: the process may be killed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._told_at: float | None = None

    def emit(self, type: str, *, message: str = "", level: str = "info", data: Mapping[str, Any] | None = None) -> None:
        """Takes one event."""
        data = dict(data or {})
        record: dict[str, Any] = {}
        if type == "metrics" and "loss" in data:
            now = time.monotonic()
            record = {name: data[name] for name in ("global_step", "loss", "peak_memory_gib") if name in data}
            if self._told_at is not None and data["global_step"] not in (1, SAVED_AT + 1):
                record["seconds_per_step"] = round(now - self._told_at, 4)
            self._told_at = now
        elif type == "decision" and "strategy" in data:
            record = {"strategy": data["strategy"]}
        elif type == "decision" and message.startswith("resumes"):
            record = {"resumed_from": Path(data["path"]).name}
        elif type == "warning":
            record = {"warning": message}
        if record and find_rank() == 0:
            with self._path.open("a") as file:
                file.write(json.dumps(record) + "\n")


def make_case_config(case: Case, *, scale: Scale, folder: Path, num_gpus: int) -> Config:
    """A step of every case trains on the same samples, at a port of its own: cases run at once."""
    names = [each.name for each in list_cases(num_gpus)]
    return build_config(
        {
            "model_name_or_path": str(folder / "model"),
            "train_local_path_to_data": str(folder / "data" / "train.jsonl"),
            "output_dir": str(folder / case.name),
            "dataset_key": "general",
            "experiment_key": "killed",
            "path_to_env_file": None,
            "lora_dropout": 0.0,
            "max_length": scale.max_length,
            "per_device_train_batch_size": 8 // num_gpus,
            "max_steps": NUM_STEPS,
            "save_steps": SAVED_AT,
            "warmup_steps": 0,
            "logging_steps": 1,
            "optim": "adamw_torch",
            "master_port": FIRST_PORT + names.index(case.name),
            **case.values,
        }
    )


def train_case(options: argparse.Namespace) -> None:
    """One process of one case; `--kill` ends all of its ranks at a step, as a crash would."""
    from transformers import TrainerCallback

    from trainer_core.context import StepContext
    from trainer_core.enums import Step
    from trainer_core.experiments import Experiment, experiments_registry
    from trainer_core.steps.train import train

    class Killer(TrainerCallback):  # type: ignore[misc]
        """No handler runs."""

        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if options.kill and state.global_step == KILLED_AT:
                os.kill(os.getpid(), signal.SIGKILL)

    class KilledExperiment(Experiment):
        """Dies after it has told of the fatal step."""

        def _attach_callbacks(self) -> None:
            super()._attach_callbacks()
            assert self.trainer is not None
            self.trainer.add_callback(Killer())

    experiments_registry.add(key="killed", value=KilledExperiment)
    case = next(each for each in list_cases(options.num_gpus) if each.name == options.run_case)
    config = make_case_config(case, scale=choose_scale(options), folder=options.folder, num_gpus=options.num_gpus)
    events = WrittenEvents(options.folder / f"{case.name}{'-killed' if options.kill else ''}.jsonl")
    train(config, context=StepContext(Step.TRAIN, events))


if __name__ == "__main__":
    main()
