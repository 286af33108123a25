"""A step program whose steps do what `stub.json` in the workspace tells them: real processes without torch."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from trainer_core.checkpoints import mark_complete
from trainer_core.config import Config
from trainer_core.context import ArtifactFolder, StepContext, StepResult
from trainer_core.enums import Step
from trainer_core.errors import DataError, StepInterrupted
from trainer_core.step_main import main


@dataclass(frozen=True)
class Staged:
    model: str | None = None
    tokenizer: str | None = None
    adapter: str | None = None
    calibration: str | None = None
    revisions: dict = None


def stage(config, steps, *, inputs):
    return Staged(revisions={})


def load_step(step: Step):
    return {
        Step.PREPARE: run_prepare,
        Step.TRAIN: run_train,
        Step.FUSE: run_fuse,
        Step.QUANTIZE: run_fuse,
    }[step]


def read_orders(step: Step, config: Config) -> dict:
    orders = Path("stub.json")
    text = orders.read_text() if orders.exists() else config.collator_separator.strip() or "{}"
    return json.loads(text).get(step.value, {})


def run_prepare(config: Config, context: StepContext) -> StepResult:
    obey(read_orders(Step.PREPARE, config), config, context)
    path = Path(config.train_local_path_to_data)
    path.parent.mkdir(exist_ok=True)
    path.write_text('{"text": "a"}\n')
    return StepResult((ArtifactFolder("data", path.parent, (path.name,)),), {"num_rows": 1})


def run_train(config: Config, context: StepContext) -> StepResult:
    folder = Path(config.output_dir)
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(b"weights" * 1000)
    obey(read_orders(Step.TRAIN, config), config, context)
    return StepResult((ArtifactFolder.of_files_in(folder, name="adapter"),), {"loss": 0.5})


def run_fuse(config: Config, context: StepContext) -> StepResult:
    obey(read_orders(context.step, config), config, context)
    folder = Path(config.fused_model_local_path)
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_bytes(b"fused" * 1000)
    return StepResult((ArtifactFolder.of_files_in(folder, name="fused"),))


def obey(orders: dict, config: Config, context: StepContext) -> None:
    print("hello from", context.step, "token", config.huggingface_hub_token, flush=True)
    if "leak" in orders:
        leak(config, context)
    for action in ORDERS:
        if action in orders:
            ORDERS[action](orders[action], context)


def leak(config: Config, context: StepContext) -> None:
    """Tells its secrets in every way that a user's code has; the digest proves that it had them."""
    token = str(config.huggingface_hub_token)
    print("digest", hashlib.sha256(token.encode()).hexdigest(), config.wandb_api_key, flush=True)
    print("cut", token[:7], end="", flush=True)
    print(token[7:], file=sys.stderr, flush=True)
    context.events.emit("warning", message=f"the token is {token}", level="warning", data={token: [token]})
    if context.step is Step.TRAIN:
        raise ValueError(f"the token {token} was refused")


def emit_metrics(count: int, context: StepContext) -> None:
    for global_step in range(1, count + 1):
        data = {"global_step": global_step, "total_steps": count, "loss": 1.0 / global_step}
        context.events.emit("progress", data=data)
        context.events.emit("metrics", data=data)


def save_checkpoint(global_step: int, context: StepContext) -> None:
    folder = Path("outputs") / f"checkpoint-{global_step}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": global_step}))
    mark_complete(folder)
    context.events.emit("checkpoint.saved", data={"global_step": global_step, "path": f"outputs/{folder.name}"})


def print_lines(count: int, context: StepContext) -> None:
    for number in range(count):
        print("line", number, flush=True)


def print_variable(name: str, context: StepContext) -> None:
    print(name, os.environ.get(name), flush=True)


def start_grandchild(pid_file: str, context: StepContext) -> None:
    # A session of its own and no pipe: nothing but its ancestors' watch ends it.
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    Path(pid_file).write_text(f"{os.getpid()} {child.pid}")


def fail(kind: str, context: StepContext) -> None:
    if kind == "disk_full":
        raise OSError(28, "No space left on device")
    if kind == "data":
        raise DataError("row 3 has no text", param="dataset_key")
    if kind == "secret":
        raise ValueError("the token hf_" + "a" * 34 + " was refused")
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise ValueError("broken")


def fail_once(kind: str, context: StepContext) -> None:
    proof = Path("failed-once")
    if not proof.exists():
        proof.write_text("")
        fail(kind, context)


def sleep(seconds: float, context: StepContext) -> None:
    Path("asleep").write_text(str(os.getpid()))
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if context.stop.is_set:
            save_checkpoint(7, context)
            raise StepInterrupted("stopped while asleep")
        time.sleep(0.02)


def sleep_once(seconds: float, context: StepContext) -> None:
    if not Path("asleep").exists():
        sleep(seconds, context)


def fill_disk(_: bool, context: StepContext) -> None:
    with Path("outputs/big.bin").open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * (1 << 20))


def ignore_signals(seconds: float, context: StepContext) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Path("asleep").write_text(str(os.getpid()))
    time.sleep(seconds)


ORDERS = {
    "metrics": emit_metrics,
    "checkpoint": save_checkpoint,
    "lines": print_lines,
    "variable": print_variable,
    "grandchild": start_grandchild,
    "fail": fail,
    "fail_once": fail_once,
    "sleep": sleep,
    "sleep_once": sleep_once,
    "fill_disk": fill_disk,
    "ignore_signals": ignore_signals,
}

if __name__ == "__main__":
    sys.exit(main(load_step=load_step, stage=stage))
