"""Whole folders from one layout to the other and back."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.support.packed_models import Rounding, build_packed_llama, set_quantization_settings
from trainer_core.errors import ModelLoadError
from trainer_core.models.packed import gptq_files
from trainer_core.models.packed.gptq_files import convert_to_compressed_tensors, convert_to_gptq_layout
from trainer_core.models.packed.loading import load_packed_model

TOKENS = torch.arange(3, 19).unsqueeze(0)
SMALL = {"num_hidden_layers": 1, "intermediate_size": 192, "num_attention_heads": 2, "num_key_value_heads": 1}


def read_all(folder: Path) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for path in folder.glob("*.safetensors"):
        tensors |= load_file(path)
    return tensors


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize(
    ("rounding", "dtype", "num_shards"),
    [
        pytest.param(Rounding(4, 32), torch.float16, 1, id="as most checkpoints are"),
        pytest.param(Rounding(4, 128), torch.bfloat16, 3, id="layers that no group fits, tensors in several files"),
        pytest.param(Rounding(8, -1, symmetric=False), torch.float32, 1, id="one scale and zero point a row"),
        pytest.param(Rounding(3, 64, by_activation=True), torch.float16, 2, id="act-order, values across words"),
        pytest.param(Rounding(2, 16, symmetric=False, by_activation=True), torch.float32, 1, id="everything else"),
    ],
)
def test_a_folder_comes_back_bit_for_bit(tmp_path, rounding, dtype, num_shards) -> None:
    folder = tmp_path / "model"
    build_packed_llama(
        folder, layout="compressed-tensors", rounding=rounding, dtype=dtype, num_shards=num_shards, **SMALL
    )
    before, files = read_all(folder), {path.name for path in folder.iterdir()}
    convert_to_gptq_layout(folder)
    as_gptq = read_all(folder)
    convert_to_compressed_tensors(folder)
    assert_same(read_all(folder), before)
    convert_to_gptq_layout(folder)
    assert_same(read_all(folder), as_gptq)
    assert {path.name for path in folder.iterdir()} == files | {"quantize_config.json"}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_the_gptq_folder_says_what_its_readers_ask_for(tmp_path) -> None:
    folder = tmp_path / "model"
    rounding = Rounding(4, 128)
    build_packed_llama(folder, layout="compressed-tensors", rounding=rounding, num_shards=2, **SMALL)
    convert_to_gptq_layout(folder)
    settings = json.loads((folder / "quantize_config.json").read_text())
    assert settings == json.loads((folder / "config.json").read_text())["quantization_config"]
    wanted = {"quant_method": "gptq", "checkpoint_format": "gptq", "bits": 4, "group_size": 128, "desc_act": False}
    assert settings.items() >= (wanted | {"sym": True, "lm_head": False}).items()
    # 192 columns are no multiple of 128.
    exceptions = {r"+:^model\.layers\.0\.mlp\.down_proj$": {"bits": 4, "group_size": -1}}
    assert settings["dynamic"] == exceptions
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    tensors = read_all(folder)
    assert index["weight_map"].keys() == tensors.keys()
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors.values())
    assert tensors["model.layers.0.self_attn.q_proj.qweight"].shape == (128 * 4 // 32, 128)
    assert tensors["model.layers.0.self_attn.q_proj.qzeros"].shape == (1, 128 * 4 // 32)


def test_zero_points_that_one_less_would_break_go_into_the_second_version(tmp_path) -> None:
    folder = tmp_path / "model"
    build_packed_llama(folder, layout="compressed-tensors", rounding=Rounding(symmetric=False), **SMALL)
    convert_to_gptq_layout(folder)
    settings = json.loads((folder / "quantize_config.json").read_text())
    assert (settings["checkpoint_format"], settings["sym"]) == ("gptq_v2", False)


def test_compressed_tensors_itself_loads_what_was_a_gptq_checkpoint(tmp_path) -> None:
    folder = tmp_path / "model"
    build_packed_llama(folder, layout="gptq", rounding=Rounding(4, 128, symmetric=False), **SMALL)
    packed, _ = load_packed_model(str(folder), options={"dtype": torch.float32})
    convert_to_compressed_tensors(folder)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        assert torch.equal(theirs(TOKENS).logits, packed(TOKENS).logits)


def test_a_conversion_that_fails_leaves_the_folder_as_it_was(tmp_path, monkeypatch) -> None:
    folder = tmp_path / "model"
    build_packed_llama(folder, layout="compressed-tensors", num_shards=2, **SMALL)
    before, config = read_all(folder), (folder / "config.json").read_text()

    # A disk that is full cannot be had here.
    def fill_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gptq_files, "_write_json", fill_disk)
    with pytest.raises(OSError, match="No space left"):
        convert_to_gptq_layout(folder)
    assert_same(read_all(folder), before)
    assert (folder / "config.json").read_text() == config
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_settings_that_contradict_the_zero_points_are_told(tmp_path) -> None:
    folder = tmp_path / "model"
    build_packed_llama(folder, layout="gptq", rounding=Rounding(symmetric=False), **SMALL)
    settings = json.loads((folder / "config.json").read_text())["quantization_config"]
    set_quantization_settings(folder, settings | {"sym": True})
    with pytest.raises(ModelLoadError, match="set sym to false"):
        convert_to_compressed_tensors(folder)


@pytest.fixture(scope="module")
def packed_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_packed_llama(tmp_path_factory.mktemp("packed") / "model", layout="gptq", **SMALL)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (None, "is not quantized"),
        ({"quant_method": "awq", "bits": 4}, "quantized by awq; read are GPTQ"),
        ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, "gptq as 'marlin'"),
        ({"quant_method": "gptq", "bits": 5}, "bits=5"),
        ({"quant_method": "gptq", "bits": "four"}, "bits='four'"),
        ({"quant_method": "compressed-tensors", "format": "float-quantized"}, "compressed-tensors as"),
        (
            {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"group_0": {}}},
            "has no such layer",
        ),
    ],
)
def test_what_cannot_be_read_is_told(packed_folder, tmp_path, settings, message) -> None:
    folder = tmp_path / "model"
    shutil.copytree(packed_folder, folder)
    set_quantization_settings(folder, settings)
    with pytest.raises(ModelLoadError, match=message):
        convert_to_gptq_layout(folder)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("scales", lambda tensor: tensor * float("nan"), "scales of the quantized layer .* are not finite"),
        ("g_idx", lambda tensor: tensor + 7, "names groups beyond its 4"),
        ("qzeros", lambda tensor: tensor[:, :3], "do not fit each other"),
        ("scales", lambda tensor: tensor[:, :5], "do not fit each other"),
        ("g_idx", lambda tensor: tensor[:50], "no width of 2, 3, 4 or 8 bits fits"),
        ("scales", lambda tensor: tensor[0], "only matrices are read"),
        ("scales", None, "lacks scales"),
    ],
)
def test_broken_tensors_are_told_by_the_layers_name(packed_folder, tmp_path, name, change, message) -> None:
    from safetensors.torch import save_file

    folder = tmp_path / "model"
    shutil.copytree(packed_folder, folder)
    tensors = load_file(folder / "model.safetensors")
    key = f"model.layers.0.self_attn.q_proj.{name}"
    tensor = tensors.pop(key)
    if change is not None:
        tensors[key] = change(tensor).contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelLoadError, match=message):
        convert_to_compressed_tensors(folder)


def test_a_file_that_is_missing_or_no_safetensors_file_is_named(packed_folder, tmp_path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(packed_folder, folder)
    (folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelLoadError, match=r"model\.safetensors cannot be read"):
        convert_to_compressed_tensors(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelLoadError, match=r"lacks the weights model\.safetensors"):
        convert_to_compressed_tensors(folder)
