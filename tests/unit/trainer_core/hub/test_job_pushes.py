"""Pushes of a job by its pipeline: real processes of staging and pushing, around steps that train nothing."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.fake_hub import FakeHub, Fault
from tests.unit.trainer_core.hub.conftest import TOKEN, write_safetensors
from trainer_core.attempt.outcome import AttemptResult, read_result
from trainer_core.attempt.push_record import read_push_records
from trainer_core.enums import Step
from trainer_core.events import EventRecord
from trainer_core.job_spec import JobSpec, StepInputs
from trainer_core.workspace import Workspace

pytestmark = pytest.mark.timeout(300)
STUB = Path(__file__).with_name("stub_job.py")
PUSHES = {
    "push_to_hub": True,
    "hub_model_id": "acme/adapter",
    "apply_lora": True,
    "fused_hub_model_id": "fused",
    "fused_hub_private_repo": False,
}


class Job:
    """A job in a workspace, and the hub it pushes to."""

    program: tuple[str, ...] = (str(STUB),)

    def __init__(self, root: Path, *, environment: dict[str, str]) -> None:
        self.workspace = Workspace(root / "workspace")
        self.workspace.root.mkdir()
        self._environment = environment
        self.inputs = StepInputs()
        self.base = root / "base"
        self.base.mkdir()
        (self.base / "config.json").write_text("{}")
        write_safetensors(self.base / "model.safetensors", {"weight": b"1234"})

    def run(self, attempt: int = 1, **keys) -> int:
        with self.start(attempt, **keys) as process:
            return process.wait(timeout=280)

    def start(
        self, attempt: int = 1, *, steps: str = "train fuse", token: str | None = TOKEN, **keys
    ) -> subprocess.Popen[bytes]:
        """Starts the pipeline; `keys` are orders of the stub, else keys of the Config."""
        orders = {name: keys.pop(name) for name in ("checkpoints", "waits_for", "is_killed") if name in keys}
        config = {"model_name_or_path": str(self.base), "dataset_key": "default", **keys}
        names = {str(self.base): "local:base"}
        steps_run = tuple(Step(name) for name in steps.split())
        spec = JobSpec("job-1", attempt, config, steps_run, self.inputs, public_names=names)
        self.workspace.attempt_dir(attempt).mkdir(parents=True)
        self.workspace.attempt(attempt).job.write_text(spec.to_json())
        (self.workspace.root / "stub.json").write_text(json.dumps(orders))
        process = subprocess.Popen(
            [
                *(sys.executable, "-P", *self.program),
                *("--workspace", str(self.workspace.root), "--attempt", str(attempt)),
            ],
            stdin=subprocess.PIPE,
            env=self._environment,
            start_new_session=True,
        )
        assert process.stdin is not None
        secrets = {} if token is None else {"huggingface_hub_token": token}
        process.stdin.write(json.dumps({"secrets": secrets}).encode() + b"\n")
        process.stdin.flush()
        return process

    def result(self, attempt: int = 1) -> AttemptResult:
        result = read_result(self.workspace.attempt(attempt).result)
        assert result is not None
        return result

    def events(self, event_type: str, attempt: int = 1) -> list[EventRecord]:
        lines = self.workspace.attempt(attempt).events.read_bytes().splitlines()
        return [record for record in map(EventRecord.from_line, lines) if record.type == event_type]

    def log(self, attempt: int = 1) -> str:
        return self.workspace.attempt(attempt).output.read_text()


@pytest.fixture
def job(tmp_path: Path, hub_environment: dict[str, str]) -> Job:
    return Job(tmp_path, environment=hub_environment)


def test_checkpoints_are_pushed_beside_the_training_and_results_after_their_steps(hub: FakeHub, job: Job) -> None:
    hub.part_bytes = 2000

    status = job.run(checkpoints=[1, 2], waits_for="artifact.created", **PUSHES)

    assert status == 0, job.log()
    adapter, fused = hub.pushed("acme/adapter"), hub.pushed("acme/fused")
    assert list(adapter.summaries.values()) == ["Checkpoint of step 1", "Checkpoint of step 2", "Add the adapter"]
    assert list(fused.summaries.values()) == ["Add the fused model"]
    assert (adapter.is_private, fused.is_private) == (True, False)
    assert adapter.files["adapter_model.safetensors"] == b"final" * 1000
    assert set(fused.files) == {".gitattributes", "README.md", "config.json", "model.safetensors"}
    assert not any(name.endswith(".pt") for files in adapter.commits.values() for name in files)
    created = [event.data for event in job.events("artifact.created") if event.data is not None]
    assert [data["commit"] for data in created] == [*adapter.summaries, *fused.summaries]
    assert created[-1] | {"commit": ""} == {
        "name": "fused",
        "repository": "acme/fused",
        "commit": "",
        "url": f"{hub.url}/acme/fused",
        "private": False,
    }
    card = adapter.files["README.md"].decode()
    assert "local:base" in card
    assert "train loss | 0.25" in card
    for content in (*hub.bodies, *adapter.files.values(), *fused.files.values()):
        assert b"canary" not in content
        assert str(job.workspace.root).encode() not in content
    assert TOKEN not in job.log()
    assert not any(TOKEN.encode() in path.read_bytes() for path in job.workspace.root.rglob("*") if path.is_file())


def test_a_push_that_failed_is_made_by_the_next_attempt_without_the_step(hub: FakeHub, job: Job) -> None:
    fault = hub.inject(Fault("acme/adapter/preupload/", status=400, times=99))
    assert job.run(**PUSHES, quantized_hub_model_id="acme/small", steps="train fuse quantize") == 1
    error = job.result().error
    assert error is not None
    assert (error.code, error.step, error.param) == ("push_refused", "train", "hub_model_id")
    assert hub.pushed("acme/small").summaries, "the steps after it ran, and pushed"
    fault.times = 0
    num_requests = len(hub.requests)

    assert job.run(2, **PUSHES, quantized_hub_model_id="acme/small", steps="train fuse quantize") == 0

    assert [event.step for event in job.events("step.skipped", 2)] == ["train", "fuse", "quantize"]
    assert job.events("step.started", 2) == []
    assert [event.step for event in job.events("artifact.created", 2)] == ["train"]
    assert not any("acme/small" in request for request in hub.requests[num_requests:])
    records = read_push_records(job.workspace)
    assert [records[name].commit for name in ("train", "fuse", "quantize")] == [
        list(hub.pushed(name).summaries)[-1] for name in ("acme/adapter", "acme/fused", "acme/small")
    ]


@pytest.mark.slow
def test_on_another_host_what_is_left_to_push_is_pushed_though_nothing_was_staged(hub: FakeHub, job: Job) -> None:
    assert job.run(**PUSHES) == 0
    job.workspace.staged.unlink()
    job.workspace.pushes.unlink()

    assert job.run(2, **PUSHES) == 0

    assert job.events("step.started", 2) == []
    assert [event.step for event in job.events("artifact.created", 2)] == ["train", "fuse"]
    assert list(hub.pushed("acme/adapter").summaries.values()) == ["Add the adapter"], "what is there is not changed"


def test_a_stop_in_mid_push_ends_at_once_and_the_push_is_made_later(hub: FakeHub, job: Job) -> None:
    hub.inject(Fault("acme/adapter/commit/", delay_seconds=60))
    process = job.start(steps="train", **PUSHES)
    deadline = time.monotonic() + 60
    while not any("adapter/commit/" in request for request in hub.requests):
        assert time.monotonic() < deadline, job.log()
        time.sleep(0.05)

    process.send_signal(signal.SIGTERM)

    assert process.wait(timeout=10) == 75
    assert process.stdin is not None
    process.stdin.close()
    assert job.result().status == "interrupted"
    assert job.run(2, steps="train", **PUSHES) == 0
    assert [event.step for event in job.events("step.skipped", 2)] == ["train"]
    assert list(hub.pushed("acme/adapter").summaries.values()) == ["Add the adapter"]


@pytest.mark.parametrize(
    ("token", "words"),
    [(None, "no token"), ("hf_unknown", "does not know the token"), ("hf_reader", "write rights")],
)
def test_a_token_that_may_not_push_ends_the_job_before_its_first_step(
    hub: FakeHub, job: Job, token: str | None, words: str
) -> None:
    hub.add_user("acme", token="hf_reader", rights="read")

    assert job.run(token=token, **PUSHES) == 1

    error = job.result().error
    assert error is not None
    assert (error.code, error.param, error.retryable) == ("push_refused", "huggingface_hub_token", False)
    assert words in error.message
    assert job.events("step.started") == []


def test_a_checkpoint_that_fails_is_a_warning_and_a_failed_training_pushes_no_result(hub: FakeHub, job: Job) -> None:
    hub.inject(Fault("acme/adapter/preupload/", status=400, times=99))

    assert job.run(checkpoints=[1], waits_for="warning", is_killed=True, **PUSHES) == 1

    (warning,) = [event for event in job.events("warning") if "pushed" in event.message]
    assert "checkpoint-1 is not pushed" in warning.message
    error = job.result().error
    assert error is not None
    assert error.code == "user_code"
    assert hub.pushed("acme/adapter").summaries == {}


def test_a_job_without_pushes_asks_nothing_of_a_hub(hub: FakeHub, job: Job) -> None:
    assert job.run(token=None, apply_lora=True, hub_model_id="acme/adapter") == 0
    assert hub.requests == []
    assert job.events("artifact.created") == []


def test_a_job_that_only_fuses_pushes_to_the_repository_of_its_config(hub: FakeHub, job: Job) -> None:
    hub.add_commit("acme/lora", {"adapter_config.json": b"{}", "adapter_model.safetensors": b""})

    status = job.run(steps="fuse", apply_lora=True, lora_hub_model_id="acme/lora", hub_model_id="acme/fused")

    assert status == 0, job.log()
    assert list(hub.pushed("acme/fused").summaries.values()) == ["Add the fused model"]


@pytest.mark.slow
def test_a_real_job_on_a_private_model_of_the_hub_pushes_an_adapter_that_loads(
    hub: FakeHub, job: Job, tiny_model: Path, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    sha = hub.add_commit("acme/base", tiny_model, is_private=True)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": f"Hello number {number}"}) + "\n" for number in range(16)))
    job.program = ("-m", "trainer_core.pipeline")
    job.inputs = StepInputs(training_file=str(rows))
    keys = {"model_name_or_path": "acme/base", "max_steps": 6, "save_steps": 2, "max_length": 32, "lora_rank": 4}

    status = job.run(steps="prepare train fuse", **PUSHES, **keys, optim="adamw_torch", warmup_steps=0)

    assert status == 0, job.log()
    adapter = hub.pushed("acme/adapter")
    assert list(adapter.summaries.values())[-1] == "Add the adapter"
    settings = json.loads(adapter.files["adapter_config.json"])
    assert settings["base_model_name_or_path"] == "acme/base"
    card = adapter.files["README.md"].decode()
    assert sha in card
    assert 'base_model: "acme/base"' in card
    assert "train loss" in card
    for name in ("acme/adapter", "acme/fused"):
        for files in hub.pushed(name).commits.values():
            for file, content in files.items():
                assert b"canary" not in content, file
                assert str(tmp_path).encode() not in content, file
    folders = {name: tmp_path / name.replace("/", "-") for name in ("acme/adapter", "acme/fused")}
    for name, folder in folders.items():
        folder.mkdir()
        for file, content in hub.pushed(name).files.items():
            (folder / file).write_bytes(content)
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    tuned = PeftModel.from_pretrained(base, folders["acme/adapter"])
    fused = AutoModelForCausalLM.from_pretrained(folders["acme/fused"])
    tokens = AutoTokenizer.from_pretrained(folders["acme/adapter"])("Hello number 3", return_tensors="pt")
    assert (tuned(**tokens).logits - fused(**tokens).logits).abs().max() < 1e-4
