"""Checkpoints are held against the plan by their headers alone."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from trainer_core.errors import QuantizationError
from trainer_core.quantizers.checkpoint_check import check_saved_layers, find_quantized_layers

WHOLE = torch.zeros(4, 4)
BYTES = torch.zeros(4, 4, dtype=torch.int8)
LAYOUTS = [
    pytest.param({"weight_packed": BYTES.int(), "weight_scale": WHOLE}, id="compressed-tensors"),
    pytest.param({"qweight": BYTES.int(), "scales": WHOLE}, id="GPTQ"),
    pytest.param({"weight": WHOLE.to(torch.float8_e4m3fn), "weight_scale": WHOLE}, id="FP8"),
    pytest.param({"weight": BYTES, "weight_scale": WHOLE}, id="W8A8"),
    pytest.param({"weight": BYTES.to(torch.uint8), "weight.absmax": WHOLE}, id="bitsandbytes in 4 bits"),
    pytest.param({"weight": BYTES, "SCB": WHOLE}, id="bitsandbytes in 8 bits"),
]


def save(folder: Path, layers: dict[str, dict[str, torch.Tensor]], *, file: str = "model.safetensors") -> Path:
    tensors = {f"{layer}.{name}": tensor.clone() for layer, parts in layers.items() for name, tensor in parts.items()}
    save_file(tensors, folder / file)
    return folder


@pytest.mark.parametrize("parts", LAYOUTS)
def test_quantized_layers_of_every_layout_are_found_in_all_shards(tmp_path: Path, parts: dict) -> None:
    save(tmp_path, {"a": parts, "head": {"weight": WHOLE.half()}}, file="model-00001-of-00002.safetensors")
    save(tmp_path, {"b": parts}, file="model-00002-of-00002.safetensors")
    assert find_quantized_layers(tmp_path) == {"a", "b"}
    assert check_saved_layers(tmp_path, ["a", "b"]) == 2


@pytest.mark.parametrize("parts", LAYOUTS)
def test_a_planned_layer_that_stayed_whole_is_an_error_that_names_it(tmp_path: Path, parts: dict) -> None:
    save(tmp_path, {"a": parts, "b": {"weight": WHOLE}})
    with pytest.raises(QuantizationError, match="1 quantized layers of the 2 planned; b is not"):
        check_saved_layers(tmp_path, ["a", "b"])


@pytest.mark.parametrize("parts", LAYOUTS)
def test_integers_without_their_scales_do_not_count(tmp_path: Path, parts: dict) -> None:
    first, *_ = parts.items()
    save(tmp_path, {"a": dict([first])})
    assert find_quantized_layers(tmp_path) == frozenset()


def test_layers_that_are_saved_under_other_names_count_by_their_number(tmp_path: Path) -> None:
    parts = {"weight": BYTES, "SCB": WHOLE}
    save(tmp_path, {"new.a": parts, "new.b": parts})
    assert check_saved_layers(tmp_path, ["old.a", "old.b"]) == 2


def test_a_folder_without_weights_holds_none(tmp_path: Path) -> None:
    with pytest.raises(QuantizationError, match="0 quantized layers of the 1 planned"):
        check_saved_layers(tmp_path, ["a"])
