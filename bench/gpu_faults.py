"""Kills and cancels a real training as the service runs it, and waits until the GPU's memory is free again.

    python -m bench.gpu_faults [--scale llama-1b] [--repeats 10] [--out bench/results/gpu-faults.json]

Needs the trainer alone: no database, no broker. Without a GPU it measures all but the memory (`--scale tiny`).
Exit status 1: something was left behind, or a figure is over its goal.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from app.settings import Settings
from trainer_core.checkpoints import newest_complete_checkpoint
from trainer_core.enums import Step
from trainer_core.events import EventRecord
from trainer_core.job_spec import JobSpec, StepInputs
from trainer_core.watchdog import become_subreaper, exit_when_stdin_hangs_up, find_descendants, kill_descendants
from trainer_core.workspace import Workspace
from worker.cage import build_job_cage
from worker.pipeline_process import PipelineProgram, serve_attempt

ROOT = Path(__file__).parents[1]
FaultKind = Literal["cancel", "step killed", "pipeline killed", "starter killed"]
KINDS: tuple[FaultKind, ...] = ("cancel", "step killed", "pipeline killed", "starter killed")
SAVE_EVERY = 10
STEPS_BEFORE_FAULT = 14
"""Training steps of an attempt before it is hit: past a checkpoint, and not at one."""
START_SECONDS = 300.0
END_SECONDS = 60.0
CANCEL_GOAL_SECONDS = 5.0
KILL_GOAL_SECONDS = 5.0
TOLERANCE_BYTES = 64 << 20
"""What the driver itself may keep or give back between two looks."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One fault."""

    kind: FaultKind
    seconds_to_last_process: float
    seconds_to_free_memory: float | None
    """None: this host has no GPU."""
    bytes_in_use: int | None
    """Above the baseline, before the fault."""
    bytes_left: int | None
    """Above the baseline, in the end."""
    steps_done: int
    """Last training step that the job told of."""
    steps_saved: int
    """Training step of the newest whole checkpoint behind it."""
    processes_left: int

    @property
    def is_clean(self) -> bool:
        """Nothing is left, soon enough, and no more than one interval is lost."""
        goal = CANCEL_GOAL_SECONDS if self.kind == "cancel" else KILL_GOAL_SECONDS
        return (
            self.processes_left == 0
            and (self.bytes_left is None or self.bytes_left <= TOLERANCE_BYTES)
            and self.seconds_to_last_process <= 40.0
            and (self.seconds_to_free_memory is None or self.seconds_to_free_memory <= max(goal, 40.0))
            and self.steps_done - self.steps_saved <= SAVE_EVERY
        )


def main() -> int:
    """Runs the trials and returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", default="llama-1b", help="of bench.train_smoke: llama-1b, mistral-7b, tiny")
    parser.add_argument("--repeats", type=int, default=10, help="of each kind of fault")
    parser.add_argument("--kinds", choices=KINDS, nargs="+", default=list(KINDS))
    parser.add_argument("--folder", type=Path, help="folder to work in, kept; default: a temporary one, deleted")
    parser.add_argument("--out", type=Path, help="JSON file for the result; default: below bench/results")
    parser.add_argument("--hold", nargs=2, metavar=("WORKSPACE", "ATTEMPT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.hold:
        return hold(Path(options.hold[0]), int(options.hold[1]))
    become_subreaper()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="fs-gpu-"))
    try:
        spec = make_job(folder, scale=options.scale)
        trials = run_trials(folder, spec, kinds=options.kinds * options.repeats)
    finally:
        if options.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    summary = summarize(trials)
    print(json.dumps(summary, indent=1))
    print(f"written: {write_result(summary, trials, scale=options.scale, out=options.out)}")
    return 0 if all(trial.is_clean for trial in trials) else 1


def hold(root: Path, attempt: int) -> int:
    """The starter: what a worker's pool process is to a pipeline. SIGTERM asks it to stop, SIGUSR1 kills it with
    all that it started, as a supervisor does whose job is cancelled without a last checkpoint. It ends with whoever
    holds its stdin, if that is a pipe."""
    become_subreaper()
    exit_when_stdin_hangs_up(kill_descendants)
    process = serve_attempt(
        Workspace(root),
        attempt=attempt,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        secrets={},
        # In the cage of the service: a GPU has to be reached, and freed, from within it.
        program=PipelineProgram(cage=build_job_cage(Settings(data_dir=root.parent / "data")), network="auto"),
    )
    signal.signal(signal.SIGTERM, lambda number, frame: process.ask_to_stop())
    # The rest is killed by `close`, once this has ended.
    signal.signal(signal.SIGUSR1, lambda number, frame: os.killpg(process.pid, signal.SIGKILL))
    while (status := process.wait(1.0)) is None:
        continue
    process.close()
    return status if status >= 0 else 128 - status


def make_job(folder: Path, *, scale: str) -> JobSpec:
    """Makes a model of random weights and its data, in a process of its own; returns a job that trains for ever."""
    command = [sys.executable, "-m", "bench.train_smoke", "--scale", scale, "--parts", "model"]
    subprocess.run([*command, "--folder", str(folder)], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    config: dict[str, Any] = {
        "model_name_or_path": str(folder / "model"),
        "dataset_key": "general",
        "apply_lora": True,
        "use_gradient_checkpointing": False,
        "max_length": 64 if scale == "tiny" else 1024,
        "per_device_train_batch_size": 2 if scale == "tiny" else 4,
        "max_steps": 100_000,
        "warmup_steps": 0,
        "logging_steps": 1,
        "save_steps": SAVE_EVERY,
        "save_total_limit": 2,
    }
    inputs = StepInputs(training_file=str(folder / "data" / "train.jsonl"))
    return JobSpec("job-gpu", attempt=1, config=config, steps=(Step.PREPARE, Step.TRAIN), inputs=inputs)


def run_trials(folder: Path, spec: JobSpec, *, kinds: list[FaultKind]) -> list[Trial]:
    """One attempt a fault, each going on from what the last one left."""
    workspace = Workspace(folder / "workspace")
    baseline = read_used_bytes()
    print(f"baseline: {baseline} bytes in use", flush=True)
    trials = []
    for attempt, kind in enumerate(kinds, 1):
        trial = run_trial(workspace, write_attempt(workspace, spec, attempt), kind=kind, baseline=baseline)
        print(json.dumps(asdict(trial)), flush=True)
        trials.append(trial)
    return trials


def write_attempt(workspace: Workspace, spec: JobSpec, attempt: int) -> int:
    """Writes the job file of an attempt, as a worker does."""
    workspace.attempt_dir(attempt).mkdir(parents=True)
    workspace.attempt(attempt).job.write_text(replace(spec, attempt=attempt).to_json())
    return attempt


def run_trial(workspace: Workspace, attempt: int, *, kind: FaultKind, baseline: int | None) -> Trial:
    """Starts an attempt, hits it in mid-training, and waits until all of it is gone."""
    argv = [sys.executable, "-m", "bench.gpu_faults", "--hold", str(workspace.root), str(attempt)]
    starter = subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        begun_from = find_saved_step(workspace)
        wait_until(
            lambda: starter.poll() is not None or find_told_step(workspace, attempt) >= begun_from + STEPS_BEFORE_FAULT,
            seconds=START_SECONDS,
        )
        if starter.poll() is not None:
            raise SystemExit(f"the training ended by itself:\n{workspace.attempt(attempt).output.read_text()[-4000:]}")
        in_use = read_used_bytes()
        hit_at = time.monotonic()
        hit(kind, starter)
        wait_until(lambda: not find_processes(workspace), seconds=END_SECONDS, is_fatal=False)
        gone_after = time.monotonic() - hit_at
        wait_until(lambda: is_free(baseline), seconds=END_SECONDS, is_fatal=False)
        free_after = time.monotonic() - hit_at
        left = find_processes(workspace)
    finally:
        end_all(starter, workspace)
    used = read_used_bytes()
    return Trial(
        kind=kind,
        seconds_to_last_process=round(gone_after, 3),
        seconds_to_free_memory=None if baseline is None else round(free_after, 3),
        bytes_in_use=None if baseline is None or in_use is None else in_use - baseline,
        bytes_left=None if baseline is None or used is None else used - baseline,
        steps_done=find_told_step(workspace, attempt),
        steps_saved=find_saved_step(workspace),
        processes_left=len(left),
    )


def hit(kind: FaultKind, starter: subprocess.Popen[bytes]) -> None:
    """The fault itself. Below the starter hangs the pipeline, below that the step."""
    if kind == "cancel":
        starter.send_signal(signal.SIGTERM)
        return
    if kind == "starter killed":
        starter.kill()
        starter.wait()
        return
    word = "trainer_core.pipeline" if kind == "pipeline killed" else "trainer_core.step_main"
    victim = next(pid for pid in find_descendants(starter.pid) if word in read_command(pid))
    os.kill(victim, signal.SIGKILL)


def end_all(starter: subprocess.Popen[bytes], workspace: Workspace) -> None:
    """Whatever a failed trial left."""
    for pid in find_processes(workspace):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if starter.poll() is None:
        starter.kill()
    starter.wait()


def find_processes(workspace: Workspace) -> list[int]:
    """Live processes below this one that work in the workspace; this one is a subreaper, so that none slips away."""
    return [pid for pid in find_descendants() if str(workspace.root) in read_command(pid)]


def read_command(pid: int) -> str:
    """The process's command line; empty for one that is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def find_told_step(workspace: Workspace, attempt: int) -> int:
    """The last training step of the attempt's events; 0: none."""
    path = workspace.attempt(attempt).events
    found = 0
    for line in path.read_bytes().splitlines() if path.exists() else []:
        with suppress(ValueError):
            event = EventRecord.from_line(line)
            if event.type in ("metrics", "progress") and event.data is not None:
                found = max(found, int(str(event.data.get("global_step") or 0)))
    return found


def find_saved_step(workspace: Workspace) -> int:
    """Of the newest whole checkpoint; 0: none."""
    newest = newest_complete_checkpoint(workspace.outputs)
    return 0 if newest is None else int(newest.name.rpartition("-")[2])


def read_used_bytes() -> int | None:
    """GPU memory in use, of all devices; None without a GPU."""
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return sum(int(line) for line in done.stdout.split()) << 20


def is_free(baseline: int | None) -> bool:
    """Whether the memory is back where it was."""
    used = read_used_bytes()
    return baseline is None or used is None or used <= baseline + TOLERANCE_BYTES


def wait_until(condition: Callable[[], bool], *, seconds: float, is_fatal: bool = True) -> None:
    """Returns once the condition holds. Raises SystemExit when it does not in time, if that is fatal."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            if is_fatal:
                raise SystemExit(f"nothing came of it within {seconds:.0f} s")
            return
        time.sleep(0.02)


def summarize(trials: list[Trial]) -> dict[str, Any]:
    """The worst of each kind."""
    by_kind: dict[str, Any] = {}
    for kind in dict.fromkeys(trial.kind for trial in trials):
        of_kind = [trial for trial in trials if trial.kind == kind]
        memory = [trial.seconds_to_free_memory for trial in of_kind if trial.seconds_to_free_memory is not None]
        left = [trial.bytes_left for trial in of_kind if trial.bytes_left is not None]
        seconds = sorted(trial.seconds_to_last_process for trial in of_kind)
        by_kind[kind] = {
            "trials": len(of_kind),
            "clean": sum(trial.is_clean for trial in of_kind),
            "seconds_to_last_process": {"p50": seconds[len(seconds) // 2], "max": seconds[-1]},
            "seconds_to_free_memory_max": max(memory, default=None),
            "bytes_left_max": max(left, default=None),
            "steps_lost_max": max(trial.steps_done - trial.steps_saved for trial in of_kind),
            "processes_left": sum(trial.processes_left for trial in of_kind),
        }
    return {"save_every_steps": SAVE_EVERY, "kinds": by_kind}


def write_result(summary: Mapping[str, Any], trials: list[Trial], *, scale: str, out: Path | None) -> Path:
    """Writes the figures with what is needed to judge them; returns the file's path."""
    now = datetime.now(UTC)
    gpu = read_gpu_name()
    kind = "cpu" if gpu is None else "h200" if "H200" in gpu else "gpu"
    path = out or ROOT / "bench" / "results" / f"gpu-faults-{kind}-{now:%Y-%m-%d}.json"
    facts = {
        "command": " ".join(["python -m bench.gpu_faults", *sys.argv[1:]]),
        "measured_at": now.isoformat(timespec="seconds"),
        "hardware": {"cpus": os.cpu_count(), "gpu": gpu},
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "transformers", "peft", "accelerate")},
        "scale": scale,
        **summary,
        "trials": [asdict(trial) for trial in trials],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(facts, indent=1) + "\n")
    return path


def read_gpu_name() -> str | None:
    """Of the first device; None without a GPU."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.splitlines()[0].strip()


if __name__ == "__main__":
    sys.exit(main())
