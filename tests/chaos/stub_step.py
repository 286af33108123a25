"""A step program that trains by counting: real processes, real checkpoints, no torch.

The Config's `collator_separator` carries its orders. The state after step n follows from n alone, so that a resumed
training must end where a straight one does.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from tests.chaos.journal import Journal
from trainer_core.checkpoints import mark_complete, newest_complete_checkpoint, remove_old_checkpoints
from trainer_core.config import Config
from trainer_core.context import ArtifactFolder, StepContext, StepResult
from trainer_core.enums import Step
from trainer_core.errors import StepInterrupted
from trainer_core.ranks import is_first_rank
from trainer_core.step_main import main

NUM_KEPT = 2


@dataclass(frozen=True, slots=True)
class Orders:
    """What one job's steps are to do."""

    journal: str
    num_steps: int = 20
    save_every: int = 5
    step_seconds: float = 0.05
    prepare_seconds: float = 0.1
    has_grandchild: bool = False
    """Start a process in a session of its own, which nothing but its ancestors' watch ends."""
    is_stubborn: bool = False
    """Train on when asked to stop, until it is killed."""

    def to_text(self) -> str:
        """As the Config carries it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> "Orders":
        """Reads it back."""
        return cls(**json.loads(text))


@dataclass(frozen=True)
class Staged:
    model: str | None = None
    tokenizer: str | None = None
    adapter: str | None = None
    calibration: str | None = None
    revisions: dict | None = None


def stage(config, steps, *, inputs):
    return Staged(revisions={})


def load_step(step: Step):
    return {Step.PREPARE: run_prepare, Step.TRAIN: run_train, Step.FUSE: run_fuse}[step]


def count_state(global_step: int) -> str:
    """What a training knows after so many steps."""
    state = b""
    for number in range(1, global_step + 1):
        state = sha256(state + str(number).encode()).digest()
    return state.hex()


def open_journal(config: Config, context: StepContext) -> tuple[Orders, Journal]:
    orders = Orders.from_text(config.collator_separator)
    workspace, attempt = Path(sys.argv[sys.argv.index("--workspace") + 1]), sys.argv[sys.argv.index("--attempt") + 1]
    journal = Journal(Path(orders.journal), job_id=workspace.name, attempt=int(attempt), step=context.step)
    journal.write("began")
    print(context.step, "begins", flush=True)
    return orders, journal


def run_prepare(config: Config, context: StepContext) -> StepResult:
    orders, journal = open_journal(config, context)
    time.sleep(orders.prepare_seconds)
    path = Path(config.train_local_path_to_data)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"text": os.urandom(8).hex()}) + "\n")
    journal.write("ended")
    return StepResult((ArtifactFolder("data", path.parent, (path.name,)),), {"num_rows": 1})


def run_train(config: Config, context: StepContext) -> StepResult:
    orders, journal = open_journal(config, context)
    if not is_first_rank():
        return wait_for_first_rank(config, context)
    folder = Path(config.output_dir)
    folder.mkdir(exist_ok=True)
    if orders.has_grandchild:
        subprocess.Popen(["sleep", "600"], stdin=subprocess.DEVNULL, start_new_session=True)
    state = train_on(folder, orders, journal=journal, context=context)
    (folder / "adapter_config.json").write_text("{}")
    # Two trainings are never alike to the bit: a file of one attempt among another's would show.
    content = {"state": state, "nonce": os.urandom(8).hex()}
    (folder / "adapter_model.safetensors").write_text(json.dumps(content))
    journal.write("ended", orders.num_steps)
    return StepResult((ArtifactFolder.of_files_in(folder, name="adapter"),), {"loss": 0.5})


def wait_for_first_rank(config: Config, context: StepContext) -> StepResult:
    while not (Path(config.output_dir) / "adapter_model.safetensors").exists():
        if context.stop.is_set:
            raise StepInterrupted("stopped with the first rank")
        time.sleep(0.05)
    return StepResult()


def train_on(folder: Path, orders: Orders, *, journal: Journal, context: StepContext) -> str:
    """From the newest whole checkpoint to the end; returns the state."""
    done, state = load_newest(folder)
    journal.write("resumed", done)
    for number in range(done + 1, orders.num_steps + 1):
        if context.stop.is_set and not orders.is_stubborn:
            save(folder, number - 1, state=state, journal=journal, context=context)
            raise StepInterrupted(f"stopped after step {number - 1}")
        time.sleep(orders.step_seconds)
        state = sha256(bytes.fromhex(state) + str(number).encode()).digest().hex()
        journal.write("trained", number)
        context.events.emit("metrics", data={"global_step": number, "total_steps": orders.num_steps, "loss": 0.5})
        if number % orders.save_every == 0:
            save(folder, number, state=state, journal=journal, context=context)
    return state


def load_newest(folder: Path) -> tuple[int, str]:
    newest = newest_complete_checkpoint(folder)
    if newest is None:
        return 0, ""
    saved = json.loads((newest / "trainer_state.json").read_text())
    return saved["global_step"], saved["state"]


def save(folder: Path, number: int, *, state: str, journal: Journal, context: StepContext) -> None:
    if number == 0:
        return
    checkpoint = folder / f"checkpoint-{number}"
    checkpoint.mkdir(parents=True, exist_ok=True)
    (checkpoint / "weights.bin").write_bytes(os.urandom(1 << 14))
    (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": number, "state": state}))
    mark_complete(checkpoint)
    journal.write("saved", number)
    context.events.emit("checkpoint.saved", data={"global_step": number, "path": f"outputs/{checkpoint.name}"})
    remove_old_checkpoints(folder, num_kept=NUM_KEPT)


def run_fuse(config: Config, context: StepContext) -> StepResult:
    _, journal = open_journal(config, context)
    adapter = json.loads((Path(config.output_dir) / "adapter_model.safetensors").read_text())
    folder = Path(config.fused_model_local_path)
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_text(json.dumps({**adapter, "fused": os.urandom(8).hex()}))
    journal.write("ended")
    return StepResult((ArtifactFolder.of_files_in(folder, name="fused"),))


if __name__ == "__main__":
    sys.exit(main(load_step=load_step, stage=stage))
