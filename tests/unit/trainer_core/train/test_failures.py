"""What runs out is told as the trainer's own errors, and a published model's odd settings do not stop a save."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support.tiny_models import build_tiny_llama
from tests.unit.trainer_core.train.conftest import RecordedEvents
from trainer_core.config import Config
from trainer_core.errors import DeviceMemoryError, DiskFullError, HostMemoryError, ModelLoadError
from trainer_core.models.failures import resource_errors
from trainer_core.models.loading import load_model
from trainer_core.models.vocabulary import check_vocabulary

MakeConfig = Callable[..., Config]


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), DeviceMemoryError),
        (MemoryError(), HostMemoryError),
        (OSError(errno.ENOSPC, "No space left on device"), DiskFullError),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), DiskFullError),
        (RuntimeError("PytorchStreamWriter failed: file write failed"), DiskFullError),
        (OSError(errno.ENOENT, "No such file"), FileNotFoundError),
        (RuntimeError("shapes do not match"), RuntimeError),
    ],
)
def test_errors_of_resources_get_their_own_kind(raised: BaseException, told: type[BaseException]) -> None:
    with pytest.raises(told), resource_errors("training"):
        raise raised


def test_a_real_full_disk_is_told_as_one() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(DiskFullError), resource_errors("saving"), full.open("wb", buffering=0) as file:
        file.write(b"x")


def test_generation_settings_that_cannot_be_saved_are_repaired(tmp_path: Path, make_config: MakeConfig) -> None:
    folder = build_tiny_llama(tmp_path / "model")
    settings = '{"do_sample": false, "temperature": 0.6, "top_p": 0.9, "bos_token_id": 0, "eos_token_id": 1}'
    (folder / "generation_config.json").write_text(settings)
    model = load_model(make_config(model_name_or_path=str(folder)))
    model.save_pretrained(tmp_path / "saved")
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "saved").generation_config
    assert (saved.do_sample, saved.temperature, saved.top_p) == (True, 0.6, 0.9)


def test_a_padding_token_without_an_embedding_is_refused(tiny_llama: Path, events: RecordedEvents) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    check_vocabulary(model, tokenizer=tokenizer, events=events)
    assert not events.all
    tokenizer.add_tokens(["<new>"])
    check_vocabulary(model, tokenizer=tokenizer, events=events)
    assert events.of_type("warning")[0]["num_tokens"] == 385
    tokenizer.add_special_tokens({"pad_token": "<new pad>"})
    with pytest.raises(ModelLoadError, match="pad token has id 385"):
        check_vocabulary(model, tokenizer=tokenizer, events=events)
