"""Where a model's layers go."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from tests.support.tiny_models import build_tiny_llama
from trainer_core.config import Config
from trainer_core.errors import ConfigError
from trainer_core.models.loading import load_model


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param("cuda:99", "'cuda:99' is not here", id="a GPU that is not here"),
        pytest.param("meta", "'meta' is none of auto", id="a device without memory"),
        pytest.param("nonsense", "'nonsense' is none of auto", id="no device"),
    ],
)
def test_a_place_that_is_not_here_is_named_before_anything_is_loaded(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_model(Config(model_name_or_path="no/model", device_map=name))


def test_places_reach_the_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passed: dict[str, Any] = {}
    load = AutoModelForCausalLM.from_pretrained

    # Notes what the real method gets: a machine with one device shows nothing else of it.
    def note(name: str, **options: Any) -> Any:
        passed.update(options)
        return load(name, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", note)
    folder = build_tiny_llama(tmp_path / "model")
    offload = str(tmp_path / "offload")
    load_model(Config(model_name_or_path=str(folder), device_map="cpu", offload_folder=offload))
    assert (passed["device_map"], passed["offload_folder"]) == ("cpu", offload)
