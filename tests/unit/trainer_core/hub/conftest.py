"""A local hub that this process and the processes it starts push to."""

import json
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from tests.support.fake_hub import FakeHub
from tests.support.tiny_models import build_tiny_llama
from trainer_core.config import Step
from trainer_core.hub.targets import PushTarget

TOKEN = "hf_canary" + "x" * 30


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        hub.add_user("acme", token=TOKEN)
        yield hub


@pytest.fixture
def hub_here(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    """The hub, as this process finds it."""
    # huggingface_hub reads these from the environment once, when it is imported.
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    return hub


@pytest.fixture
def hub_environment(hub: FakeHub, tmp_path: Path) -> dict[str, str]:
    """The environment of a process that knows only the local hub."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1", "HOME": str(tmp_path)}
    return {**clean, **own, "PYTHONPATH": str(Path(__file__).parents[4])}


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny Llama with its tokenizer."""
    return build_tiny_llama(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture
def target() -> PushTarget:
    """Where a trained adapter goes."""
    return PushTarget(Step.TRAIN, "acme/adapter", is_private=True, param="hub_model_id")


def write_safetensors(path: Path, tensors: dict[str, bytes]) -> Path:
    """Writes one-dimensional tensors of bytes, without any library."""
    header, position = {}, 0
    for name, content in tensors.items():
        end = position + len(content)
        header[name] = {"dtype": "U8", "shape": [len(content)], "data_offsets": [position, end]}
        position = end
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(tensors.values()))
    return path


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A checkpoint with all that lies in one, also what must never be pushed."""
    folder = tmp_path / "checkpoint-2"
    folder.mkdir()
    write_safetensors(folder / "adapter_model.safetensors", {"lora_A": bytes(range(200)) * 40, "lora_B": b"\1" * 3000})
    base = str(tmp_path / "base")
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base, "r": 8}))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>", "add_eos_token": True}))
    (folder / "README.md").write_text(f"peft's own card, with {base}")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "model.safetensors", "COMPLETE"):
        (folder / name).write_bytes(b"never pushed")
    (folder / "trainer_state.json").write_text("{}")
    engine = folder / "global_step2"
    engine.mkdir()
    (engine / "zero_pp_rank_0_mp_rank_00_optim_states.pt").write_bytes(b"never pushed")
    return folder


@pytest.fixture
def fast_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    # The client and we pause between tries; how long does not matter here.
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.01)))
