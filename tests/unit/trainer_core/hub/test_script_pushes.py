"""Pushes of a script's own process, through real trainings of a tiny model."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.support.fake_hub import FakeHub, Fault
from tests.unit.trainer_core.hub.conftest import TOKEN
from tests.unit.trainer_core.train.conftest import RecordedEvents, make_dataset
from trainer_core.config import Config, Step, build_config
from trainer_core.errors import ConfigError, ModelLoadError, NetworkError, PushError
from trainer_core.hub.background import BackgroundPusher
from trainer_core.hub.script import connect_script, find_script_token
from trainer_core.quantizers import Quantizer, quantizers_registry
from trainer_core.steps.fuse import fuse
from trainer_core.steps.quantize import quantize
from trainer_core.steps.train import train

# The client's own way to send a file, of which the HTTP library wants another.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def make_config(hub_here: FakeHub, tiny_model: Path, tmp_path: Path) -> Callable[..., Config]:
    """A Config of three steps of LoRA with a checkpoint each."""

    def make(**values: object) -> Config:
        defaults: dict[str, object] = {
            "model_name_or_path": str(tiny_model),
            "output_dir": str(tmp_path / "outputs"),
            "huggingface_hub_token": TOKEN,
            "dataset_key": "general",
            "max_length": 48,
            "max_steps": 3,
            "save_steps": 1,
            "save_total_limit": 1,
            "warmup_steps": 0,
            "optim": "adamw_torch",
            "learning_rate": 1e-2,
            "apply_lora": True,
        }
        return build_config(defaults | values)

    return make


def test_a_training_pushes_checkpoints_then_adapter_and_fused_model(
    hub_here: FakeHub, make_config, tmp_path: Path
) -> None:
    config = make_config(
        push_to_hub=True,
        hub_model_id="acme/adapter",
        fuse_after_training=True,
        fused_hub_model_id="acme/fused",
        fused_hub_private_repo=False,
        push_to_hub_bos_add_bos_token=True,
    )

    experiment = train(config, make_dataset())

    adapter, fused = hub_here.pushed("acme/adapter"), hub_here.pushed("acme/fused")
    *checkpoints, last = adapter.summaries.values()
    assert checkpoints
    assert set(checkpoints) <= {f"Checkpoint of step {number}" for number in (1, 2, 3)}
    assert (last, list(fused.summaries.values())) == ("Add the adapter", ["Add the fused model"])
    assert (adapter.is_private, fused.is_private) == (True, False)
    outputs = tmp_path / "outputs"
    for repository, folder, weights in (
        (adapter, outputs, "adapter_model.safetensors"),
        (fused, outputs / "fused", "model.safetensors"),
    ):
        assert repository.files[weights] == (folder / weights).read_bytes()
        assert json.loads(repository.files["tokenizer_config.json"])["add_bos_token"] is True
        assert b"train loss" in repository.files["README.md"]
        assert not any(name.endswith((".bin", ".pt", ".pth")) or "/" in name for name in repository.files)
    pushed = experiment.result.facts["pushed"]
    assert pushed["adapter"]["commit"] == list(adapter.summaries)[-1]
    assert pushed["fused"]["url"] == f"{hub_here.url}/acme/fused"
    for body in hub_here.bodies:
        assert b"canary" not in body
        assert str(tmp_path).encode() not in body
    assert list(outputs.glob(".pushing-*")) == []


def test_a_push_that_is_refused_fails_after_everything_is_saved(
    hub_here: FakeHub, make_config, tmp_path: Path, fast_retries
) -> None:
    hub_here.inject(Fault("/commit/", status=403, times=99))
    config = make_config(push_to_hub=True, hub_model_id="acme/adapter", max_steps=1, fuse_after_training=True)

    with pytest.raises(PushError, match="write rights"):
        train(config, make_dataset())

    assert (tmp_path / "outputs" / "adapter_model.safetensors").is_file()
    assert (tmp_path / "outputs" / "fused" / "model.safetensors").is_file()


def test_a_checkpoint_that_cannot_be_pushed_is_a_warning(
    hub_here: FakeHub, make_config, caplog: pytest.LogCaptureFixture, fast_retries
) -> None:
    hub_here.inject(Fault("/commit/", status=400, times=1))
    config = make_config(push_to_hub=True, hub_model_id="acme/adapter", max_steps=2, save_steps=1)

    train(config, make_dataset())

    assert "is not pushed" in caplog.text
    assert list(hub_here.pushed("acme/adapter").summaries.values())[-1] == "Add the adapter"


def test_rights_are_checked_before_the_model_is_loaded(hub_here: FakeHub, make_config) -> None:
    hub_here.add_user("acme", token="hf_reader", rights="read")
    wrong = {"push_to_hub": True, "hub_model_id": "acme/adapter", "model_name_or_path": "/no/such/model"}

    with pytest.raises(PushError) as caught:
        train(make_config(**wrong, huggingface_hub_token="hf_reader"), make_dataset())
    assert caught.value.param == "huggingface_hub_token"

    with pytest.raises((ModelLoadError, ConfigError)):
        train(make_config(**wrong), make_dataset())


def test_steps_that_only_fuse_push_to_the_models_own_repository(hub_here: FakeHub, make_config, tmp_path: Path) -> None:
    train(make_config(max_steps=1), make_dataset())
    adapter = tmp_path / "adapter"
    (tmp_path / "outputs").rename(adapter)

    result = fuse(make_config(lora_model_local_path=str(adapter), hub_model_id="acme/fused"))

    files = hub_here.pushed("acme/fused").files
    assert files["model.safetensors"] == (tmp_path / "outputs" / "fused" / "model.safetensors").read_bytes()
    assert result.facts["pushed"]["fused"]["repository"] == "acme/fused"
    assert b"num adapter tensors" in files["README.md"]


class HalvingQuantizer(Quantizer):
    """Halves the precision: enough to be pushed."""

    def quantize(self) -> None:
        self.model.half()

    def save(self, folder: Path) -> None:
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


@pytest.mark.slow
def test_a_quantized_model_is_pushed(hub_here: FakeHub, make_config, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": f"Hello number {number}"}) + "\n" for number in range(4)))
    quantizers_registry.add(key="halving", value=HalvingQuantizer)

    result = quantize(
        make_config(
            quantizer_key="halving",
            quantization_dataset_id=str(rows),
            quantized_model_path=str(tmp_path / "quantized"),
            quantized_hub_model_id="acme/small",
        )
    )

    assert result.facts["pushed"]["quantized"]["repository"] == "acme/small"
    assert "config.json" in hub_here.pushed("acme/small").files


def test_an_experiment_pushes_when_it_is_asked(hub_here: FakeHub, make_config, tmp_path: Path) -> None:
    experiment = train(make_config(max_steps=1), make_dataset())
    assert hub_here.repositories == {}

    pushed = experiment.push_to_hub(
        repo_id="acme/asked", private=False, safe_serialization=True, need_push_to_hub_bos_add_bos_token=True
    )

    repository = hub_here.pushed("acme/asked")
    assert pushed is not None
    assert (list(repository.summaries), repository.is_private) == ([pushed.commit], False)
    assert json.loads(repository.files["tokenizer_config.json"])["add_bos_token"] is True
    saved = tmp_path / "pushed.safetensors"
    saved.write_bytes(repository.files["adapter_model.safetensors"])
    local = load_file(tmp_path / "outputs" / "adapter_model.safetensors")
    assert {name: tensor.tolist() for name, tensor in load_file(saved).items()} == {
        name: tensor.tolist() for name, tensor in local.items()
    }
    with pytest.raises(PushError, match="hub_model_id"):
        experiment.push_to_hub()
    with pytest.raises(ConfigError, match="safetensors"):
        experiment.push_to_hub(repo_id="acme/asked", safe_serialization=False)


def test_while_one_checkpoint_is_pushed_only_the_newest_waits(hub_here: FakeHub, make_config, tmp_path: Path) -> None:
    import torch

    pusher = connect_script(make_config(push_to_hub=True, hub_model_id="acme/adapter"), (Step.TRAIN,))
    assert pusher is not None
    slow = hub_here.inject(Fault("/commit/", delay_seconds=1.0))
    events = RecordedEvents()
    background = BackgroundPusher(pusher, events=events)
    for step in range(1, 5):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "adapter_config.json").write_text("{}")
        save_file({"lora_A": torch.full((4,), float(step))}, folder / "adapter_model.safetensors")
        background.submit(folder, global_step=step)
        (folder / "adapter_model.safetensors").unlink()
        while step == 1 and slow.times:
            time.sleep(0.01)
    while len(events.of_type("artifact.created")) < 2:
        time.sleep(0.01)
    background.finish()

    assert [data["global_step"] for data in events.of_type("artifact.created")] == [1, 4]


def test_the_token_comes_from_field_environment_file_and_login_in_this_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    env_file = tmp_path / ".env"
    env_file.write_text("HUGGING_FACE_HUB_TOKEN=hf_file\n")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    # The saved login is a file in the home folder, which is found once, when the library is imported.
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_login")
    found = [
        find_script_token(Config(path_to_env_file=None)),
        find_script_token(Config(path_to_env_file=str(env_file))),
    ]
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", "hf_environment")
    found.append(find_script_token(Config(path_to_env_file=str(env_file))))
    found.append(find_script_token(Config(path_to_env_file=str(env_file), huggingface_hub_token="hf_field")))

    assert found == ["hf_login", "hf_file", "hf_environment", "hf_field"]


def test_a_hub_that_is_switched_off_is_told_before_training(make_config, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    # As HF_HUB_OFFLINE=1 does, which is read once.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(PushError, match="HF_HUB_OFFLINE"):
        connect_script(make_config(push_to_hub=True, hub_model_id="acme/adapter"), (Step.TRAIN,))


def test_a_hub_that_is_away_is_told_before_training(make_config, monkeypatch: pytest.MonkeyPatch, fast_retries) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(NetworkError, match=r"127\.0\.0\.1:9"):
        connect_script(make_config(push_to_hub=True, hub_model_id="acme/adapter"), (Step.TRAIN,))


def test_no_push_asks_for_no_token(make_config) -> None:
    assert connect_script(make_config(hub_model_id="acme/adapter"), (Step.TRAIN,)) is None
