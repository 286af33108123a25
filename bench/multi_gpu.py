"""Shows how training scales over the GPUs of a host, through the launchers and the pipeline of a real job.

    python -m bench.multi_gpu [--num-gpus 2] [--only 8b-lora 1b-full side-by-side cancel killed-rank]
    python -m bench.multi_gpu --scale tiny        two processes on the CPU: what works, not how fast

Of each kind of training: one GPU, then DDP, FSDP and ZeRO's stages 2 and 3 on all of them, at the same global batch.
Prints a line for each run, writes `bench/results/multi-gpu-<device>-<date>.json` after each. Exit status 1: something
is not as it must be.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from bench.gpu_faults import (
    find_processes,
    find_told_step,
    is_free,
    read_command,
    read_used_bytes,
    wait_until,
    write_attempt,
)
from bench.results_file import FOLDER, write_result
from bench.train import find_device_name
from bench.train_cases import CASES
from bench.train_systems import read_versions
from trainer_core.attempt.outcome import AttemptResult, read_result
from trainer_core.enums import Step
from trainer_core.events import EventRecord
from trainer_core.job_spec import JobSpec, StepInputs
from trainer_core.watchdog import become_subreaper, kill_descendants
from trainer_core.workspace import Workspace

ROOT = Path(__file__).parents[1]
STRATEGIES: Mapping[str, Mapping[str, Any]] = {
    "ddp": {},
    "fsdp": {"fsdp_strategy": "full_shard auto_wrap", "fsdp_offload": False},
    "zero-2": {"deepspeed_stage": 2, "deepspeed_offload": "none"},
    "zero-3": {"deepspeed_stage": 3, "deepspeed_offload": "none"},
}
KINDS: Mapping[str, Mapping[str, str]] = {
    "llama": {"8b-lora": "8b-lora", "1b-full": "1b-full"},
    "tiny": {"8b-lora": "tiny-lora", "1b-full": "tiny-full"},
}
"""What is trained under each name, by scale: a case of `bench.train_cases`."""
GOALS = {
    **{("8b-lora", "ddp"): 0.95, ("8b-lora", "fsdp"): 0.92, ("8b-lora", "zero-2"): 0.92, ("8b-lora", "zero-3"): 0.85},
    **{("1b-full", strategy): 0.90 for strategy in STRATEGIES},
}
"""Tokens a second of each GPU, as a share of what one GPU alone makes."""
SIDE_BY_SIDE_GOAL = 0.95
CANCEL_SECONDS = 10.0
NUM_STEPS = 20
NUM_WARMUP_STEPS = 8
SAVE_EVERY = 10
NUM_FAULT_STEPS = 40
JOB_SECONDS = 300.0
LARGEST_DIFFERENCE = {"8b-lora": 0.005, "1b-full": 0.02}
"""Between the losses of a strategy and of one GPU, relative: some strategies have fp32 masters of 16-bit weights."""
SETUP = "random weights, log-normal lengths, a row of 16,384 tokens a GPU and step; medians of steps 9 to 20"
EXTRAS = ("side-by-side", "cancel", "killed-rank")


@dataclass(slots=True)
class Run:
    """What one job showed."""

    name: str
    num_gpus: int
    tokens_per_second: float | None = None
    """Of all its GPUs."""
    peak_gib: float | None = None
    """Allocated on the first GPU."""
    losses: list[float] = field(default_factory=list)
    seconds_to_first_step: float | None = None
    save_seconds: float | None = None
    efficiency: float | None = None
    """Of a GPU, against one alone."""
    loss_difference: float | None = None
    decisions: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Bench:
    """Where it works, on how many GPUs, and what it has found."""

    folder: Path
    num_gpus: int
    scale: str
    activation_budget: float | None = None
    """GiB for the activations of a GPU, alone and with DDP: 84.8 GiB in all do not fit everywhere."""
    runs: dict[str, Run] = field(default_factory=dict)
    faults: dict[str, dict[str, Any]] = field(default_factory=dict)

    def make_spec(self, kind: str, *, num_gpus: int, **values: Any) -> JobSpec:
        """A job that trains so many steps of as many rows as there are GPUs in the bench, whatever it runs on."""
        case = CASES[KINDS[self.scale][kind]]
        config = {
            **{"model_name_or_path": str(self.folder / case.shape), "dataset_key": "general", "max_length": 2048},
            **{"max_steps": NUM_STEPS, "warmup_steps": 0, "learning_rate": 1e-4, "optim": "adamw_torch_fused"},
            # What a full training's checkpoint takes is measured where a rank is killed.
            **{"logging_steps": 1, "save_steps": NUM_STEPS if case.has_lora else 10_000, "save_total_limit": 1},
            **case.config,
            "tokens_per_batch": case.config["tokens_per_batch"] * self.num_gpus,
            "gradient_accumulation_steps": self.num_gpus // num_gpus,
            **values,
        }
        # DeepSpeed and FSDP take the layers over that a budget changes.
        if self.activation_budget is not None and not values.keys() & {"fsdp_strategy", "deepspeed_stage"}:
            config["activation_memory_budget_gib"] = self.activation_budget
        inputs = StepInputs(prepared_train=str(self.folder / f"{case.shape}.jsonl"))
        return JobSpec("job-gpus", 1, config, (Step.TRAIN,), inputs, num_processes=num_gpus)


def main() -> int:
    """Runs what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-gpus", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=["8b-lora", "1b-full", *EXTRAS])
    parser.add_argument("--strategies", nargs="+", choices=list(STRATEGIES), default=list(STRATEGIES))
    parser.add_argument("--scale", choices=list(KINDS), default="llama")
    parser.add_argument("--activation-budget", type=float, help="GiB of a GPU, for DDP; 50 has 8b-lora fit into 80 GB")
    parser.add_argument("--folder", type=Path, help="where models are written; default: a temporary folder")
    parser.add_argument("--out", type=Path, default=FOLDER)
    options = parser.parse_args()
    if problem := find_problem(options):
        parser.error(problem)
    wanted = options.only or ["1b-full", "8b-lora", *EXTRAS]
    become_subreaper()
    # As Ctrl-C does: what has been started is ended on the way out.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix="multi-gpu-", dir=options.folder))
    bench = Bench(folder, options.num_gpus, options.scale, options.activation_budget)
    path: Path | None = None
    device = find_device_name()
    try:
        for name in wanted:
            shape = CASES[KINDS[options.scale][name if name not in EXTRAS else "1b-full"]].shape
            make_inputs(shape, folder)
            for step in plan(name, bench, strategies=options.strategies):
                step()
                figures = {
                    **{"gpus": list_gpus(), "num_gpus": options.num_gpus, "scale": options.scale},
                    "versions": read_versions(),
                    "activation_memory_budget_gib": options.activation_budget,
                    **{"runs": [asdict(run) for run in bench.runs.values()], "faults": bench.faults},
                }
                path = write_result(f"multi-gpu-{device}", figures, setup=SETUP, folder=options.out, path=path)
    except KeyboardInterrupt:
        return 130
    finally:
        kill_descendants()
        shutil.rmtree(folder, ignore_errors=True)
    problems = [f"{run.name}: {problem}" for run in bench.runs.values() for problem in run.problems]
    problems += [f"{name}: {problem}" for name, fault in bench.faults.items() for problem in fault["problems"]]
    print("\n".join([f"written: {path}", *problems]))
    return 1 if problems else 0


def find_problem(options: argparse.Namespace) -> str | None:
    """What is wrong with the options, before anything is made; None: nothing shows."""
    if options.num_gpus < 2:
        return "--num-gpus must be at least 2"
    if options.activation_budget is not None and options.activation_budget <= 0:
        return "--activation-budget must be more than 0"
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f"--out {options.out}: {error.strerror}"
    for name in ("out", "folder"):
        folder = getattr(options, name)
        if folder is not None and not os.access(folder, os.W_OK):
            return f"--{name} {folder}: nothing can be written there"
    return None


def plan(name: str, bench: Bench, *, strategies: list[str]) -> list[Any]:
    """What is done for one of the names, in order."""
    if name == "side-by-side":
        return [lambda: run_side_by_side(bench)]
    if name == "cancel":
        return [lambda saves=saves: cancel_job(bench, saves=saves) for saves in (True, False)]
    if name == "killed-rank":
        return [lambda strategy=strategy: kill_rank(strategy, bench) for strategy in strategies]
    return [lambda: run_alone(name, bench)] + [
        lambda strategy=strategy: run_strategy(name, strategy, bench) for strategy in strategies
    ]


def make_inputs(shape: str, folder: Path) -> None:
    """Model and rows, made in a process that then gives its GPU back."""
    if (folder / shape).is_dir():
        return
    program = (
        "import sys; from pathlib import Path; from bench.train_cases import write_model, write_rows;"
        "from bench.train_measuring import find_device; shape, folder = sys.argv[1], Path(sys.argv[2]);"
        "write_model(shape, folder / shape, device=find_device());"
        "write_rows(shape, folder / (shape + '.jsonl'), count=4_000)"
    )
    subprocess.run([sys.executable, "-c", program, shape, str(folder)], check=True, cwd=ROOT, capture_output=True)


def run_alone(kind: str, bench: Bench) -> None:
    """One GPU, which runs one row after the other."""
    with job(bench, f"{kind} on one", bench.make_spec(kind, num_gpus=1, **compiled(bench)), gpus=[0]) as (run, _):
        pass
    show(run)


def run_strategy(kind: str, strategy: str, bench: Bench) -> None:
    """All GPUs by one strategy, compared with one GPU."""
    values = {**STRATEGIES[strategy], **compiled(bench)}
    spec = bench.make_spec(kind, num_gpus=bench.num_gpus, **values)
    with job(bench, f"{kind} {strategy}", spec, gpus=range(bench.num_gpus)) as (run, workspace):
        check_adapter(run, workspace, has_adapter="lora" in kind)
    alone = bench.runs.get(f"{kind} on one")
    if alone is not None and alone.tokens_per_second and run.tokens_per_second:
        run.efficiency = round(run.tokens_per_second / bench.num_gpus / alone.tokens_per_second, 3)
        if bench.scale == "llama" and run.efficiency < GOALS[kind, strategy]:
            run.problems.append(f"{run.efficiency:.1%} of one GPU's rate, must be {GOALS[kind, strategy]:.0%}")
    if alone is not None and len(run.losses) == len(alone.losses) == NUM_STEPS:
        differences = [abs(one - other) / other for one, other in zip(run.losses, alone.losses, strict=True)]
        run.loss_difference = round(max(differences), 6)
        if run.loss_difference > LARGEST_DIFFERENCE[kind]:
            run.problems.append(f"a loss differs by {run.loss_difference:.2%} from one GPU's")
    show(run)


def run_side_by_side(bench: Bench) -> None:
    """As many jobs of one GPU as there are GPUs, at the same time."""
    if "1b-full on one" not in bench.runs:
        run_alone("1b-full", bench)
    spec = bench.make_spec("1b-full", num_gpus=1, **compiled(bench))
    names = [f"1b-full on one, beside others, {number}" for number in range(bench.num_gpus)]
    started = [start(bench, spec, name=name, gpus=[number]) for number, name in enumerate(names)]
    alone = bench.runs["1b-full on one"].tokens_per_second
    for name, (workspace, holder) in zip(names, started, strict=True):
        run = finish(bench, name, workspace, holder, num_gpus=1)
        if alone and run.tokens_per_second:
            run.efficiency = round(run.tokens_per_second / alone, 3)
            if bench.scale == "llama" and run.efficiency < SIDE_BY_SIDE_GOAL:
                run.problems.append(f"{run.efficiency:.1%} of its rate alone, must be {SIDE_BY_SIDE_GOAL:.0%}")
        show(run)


def cancel_job(bench: Bench, *, saves: bool) -> None:
    """Cancels a job on all GPUs in mid-training, and waits until their memory is free and no process is left."""
    name = f"cancel {'with' if saves else 'without'} a last checkpoint"
    baseline = read_used_bytes()
    spec = bench.make_spec("1b-full", num_gpus=bench.num_gpus, max_steps=100_000)
    workspace, holder = start(bench, spec, name=name, gpus=range(bench.num_gpus))
    try:
        wait_for_step(workspace, holder, step=5)
        asked_at = time.monotonic()
        holder.send_signal(signal.SIGTERM if saves else signal.SIGUSR1)
        wait_until(lambda: not find_processes(workspace) and is_free(baseline), seconds=60, is_fatal=False)
        seconds = time.monotonic() - asked_at
    finally:
        end(workspace, holder)
    problems = [] if seconds <= CANCEL_SECONDS else [f"took {seconds:.1f} s, must be {CANCEL_SECONDS:.0f} s"]
    save_seconds = measure_save(read_events(workspace, 1))
    bench.faults[name] = {"seconds": round(seconds, 2), "save_seconds": save_seconds, "problems": problems}
    print(name, bench.faults[name], flush=True)
    shutil.rmtree(workspace.root, ignore_errors=True)


def kill_rank(strategy: str, bench: Bench) -> None:
    """Kills the last rank of a job after a checkpoint: the attempt must end as retryable, and the next one resume."""
    values = {"max_steps": NUM_FAULT_STEPS, "save_steps": SAVE_EVERY, **STRATEGIES[strategy]}
    spec = bench.make_spec("1b-full", num_gpus=bench.num_gpus, **values)
    workspace, holder = start(bench, spec, name=f"killed {strategy}", gpus=range(bench.num_gpus))
    problems = []
    try:
        wait_for_step(workspace, holder, step=SAVE_EVERY + 2)
        ranks = [pid for pid in find_processes(workspace) if is_rank(pid, bench.num_gpus - 1)]
        killed_at = time.monotonic()
        os.kill(ranks[-1], signal.SIGKILL)
        wait_until(lambda: holder.poll() is not None, seconds=90, is_fatal=False)
        seconds_to_end = time.monotonic() - killed_at
        wait_until(lambda: not find_processes(workspace), seconds=10, is_fatal=False)
        if left := len(find_processes(workspace)):
            problems.append(f"{left} processes are left")
    finally:
        end(workspace, holder)
    result = read_attempt(workspace, 1)
    if result is None or result.error is None or not result.error.retryable:
        problems.append(f"the attempt did not end as retryable: {result}")
    write_attempt(workspace, spec, 2)
    started_at = time.time()
    holder = hold(workspace, 2, gpus=range(bench.num_gpus))
    try:
        wait_until(lambda: holder.poll() is not None, seconds=JOB_SECONDS)
    finally:
        end(workspace, holder)
    events = read_events(workspace, 2)
    told = [event for event in events if event.type in ("metrics", "progress") and event.data is not None]
    last_step = find_told_step(workspace, 2)
    if not any(f"resumes from checkpoint-{SAVE_EVERY}" in event.message for event in events):
        problems.append(f"the next attempt did not resume from step {SAVE_EVERY}")
    if last_step != NUM_FAULT_STEPS:
        problems.append(f"the next attempt ended at step {last_step}")
    fault = bench.faults[f"killed rank, {strategy}"] = {
        "code": None if result is None or result.error is None else result.error.code,
        "save_seconds": measure_save(read_events(workspace, 1)),
        "seconds_to_end": round(seconds_to_end, 2),
        "seconds_from_start_to_first_step": round(told[0].created_at - started_at, 2) if told else None,
        "problems": problems,
    }
    print(f"killed rank, {strategy}", fault, flush=True)
    shutil.rmtree(workspace.root, ignore_errors=True)


@contextmanager
def job(bench: Bench, name: str, spec: JobSpec, *, gpus: Any) -> Any:
    """Runs a job to its end; within, its workspace is there to be looked at."""
    workspace, holder = start(bench, spec, name=name, gpus=gpus)
    run = finish(bench, name, workspace, holder, num_gpus=spec.num_processes)
    yield run, workspace
    shutil.rmtree(workspace.root, ignore_errors=True)


def start(bench: Bench, spec: JobSpec, *, name: str, gpus: Any) -> tuple[Workspace, subprocess.Popen[bytes]]:
    """A workspace, and the process that holds the pipeline as a worker's would."""
    workspace = Workspace(bench.folder / name.replace(" ", "-").replace(",", ""))
    write_attempt(workspace, spec, 1)
    return workspace, hold(workspace, 1, gpus=gpus)


def hold(workspace: Workspace, attempt: int, *, gpus: Any) -> subprocess.Popen[bytes]:
    """Starts an attempt on these GPUs. It ends with this process."""
    argv = [sys.executable, "-m", "bench.gpu_faults", "--hold", str(workspace.root), str(attempt)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus))}
    return subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, start_new_session=True, env=environment)


def finish(bench: Bench, name: str, workspace: Workspace, holder: Any, *, num_gpus: int) -> Run:
    """Waits for a job's end and reads what its events tell."""
    run = bench.runs[name] = Run(name, num_gpus)
    try:
        wait_until(lambda: holder.poll() is not None, seconds=JOB_SECONDS, is_fatal=False)
    finally:
        end(workspace, holder)
    result = read_attempt(workspace, 1)
    if result is None or result.status != "succeeded":
        output = workspace.attempt(1).output.read_text()[-1500:]
        cause = f"it was not over after {JOB_SECONDS:.0f} s" if result is None else result.error
        run.problems.append(f"the job did not succeed: {cause}: {output}")
        return run
    events = read_events(workspace, 1)
    metrics = [event for event in events if is_loss(event)]
    data: list[Any] = [event.data for event in metrics]
    run.losses = [round(each["loss"], 5) for each in data]
    late = [each["tokens_per_second"] for each in data if each["global_step"] > NUM_WARMUP_STEPS]
    run.tokens_per_second = round(median(late))
    run.peak_gib = round(max(each.get("peak_memory_gib", 0.0) for each in data), 1)
    started = next(event.created_at for event in events if event.type == "step.started")
    run.seconds_to_first_step = round(metrics[0].created_at - started, 1)
    run.save_seconds = measure_save(events)
    run.decisions = [event.message for event in events if event.type == "decision"]
    return run


def measure_save(events: Sequence[EventRecord]) -> float | None:
    """Seconds from the metrics before it to the first checkpoint; None: there is none."""
    saved = next((event.created_at for event in events if event.type == "checkpoint.saved"), None)
    if saved is None:
        return None
    return round(saved - max(event.created_at for event in events if is_loss(event) and event.created_at <= saved), 2)


def is_loss(event: EventRecord) -> bool:
    """Whether an event tells of a step's loss."""
    return event.type == "metrics" and "loss" in (event.data or {})


def check_adapter(run: Run, workspace: Workspace, *, has_adapter: bool) -> None:
    """What was saved must be whole: every tensor with its full shape, and an adapter that has learned."""
    from safetensors import safe_open

    name = "adapter_model.safetensors" if has_adapter else "model*.safetensors"
    paths = sorted(workspace.outputs.glob(name))
    tensors: dict[str, list[int]] = {}
    has_learned = False
    for path in paths:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - not a mapping
                tensors[key] = file.get_slice(key).get_shape()
                has_learned = has_learned or ("lora_B" in key and bool(file.get_tensor(key).any()))
    if not tensors or any(0 in shape for shape in tensors.values()) or (has_adapter and not has_learned):
        run.problems.append(f"what was saved is not whole: {len(tensors)} tensors in {len(paths)} files")


def wait_for_step(workspace: Workspace, holder: Any, *, step: int) -> None:
    """Until the first attempt has told of a training step. Raises SystemExit when it ends before."""
    wait_until(
        lambda: holder.poll() is not None or find_told_step(workspace, 1) >= step,
        seconds=JOB_SECONDS,
    )
    if holder.poll() is not None:
        raise SystemExit(f"the training ended by itself:\n{workspace.attempt(1).output.read_text()[-4000:]}")


def end(workspace: Workspace, holder: subprocess.Popen[bytes]) -> None:
    """Whatever is left of a job."""
    if holder.poll() is None:
        holder.kill()
    holder.wait()
    for pid in find_processes(workspace):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def is_rank(pid: int, rank: int) -> bool:
    """Whether a process is this rank of a job."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    return f"RANK={rank}".encode() in environment and "step_main" in read_command(pid)


def read_events(workspace: Workspace, attempt: int) -> list[EventRecord]:
    """All that an attempt has told."""
    return [EventRecord.from_line(line) for line in workspace.attempt(attempt).events.read_bytes().splitlines()]


def read_attempt(workspace: Workspace, attempt: int) -> AttemptResult | None:
    """How an attempt ended; None: it left nothing."""
    path = workspace.attempt(attempt).result
    return read_result(path) if path.exists() else None


def compiled(bench: Bench) -> dict[str, str]:
    """So few steps are not worth compiling for; a real training is."""
    return {"torch_compile": "on"} if bench.scale == "llama" else {}


def list_gpus() -> list[str]:
    """Their names."""
    with suppress(OSError, subprocess.SubprocessError):
        command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[:-1]
    return []


def show(run: Run) -> None:
    """One line."""
    facts = {
        **{"tokens/s": run.tokens_per_second, "of one": run.efficiency, "GiB": run.peak_gib},
        **{"loss differs": run.loss_difference, "save s": run.save_seconds, "first step s": run.seconds_to_first_step},
    }
    told = ", ".join(f"{name} {value}" for name, value in facts.items() if value is not None)
    print(f"{run.name}: {told}{''.join(f' PROBLEM: {each[:300]}' for each in run.problems)}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
