"""Calibrating in batches gives what calibrating sample by sample gives."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from tests.support.tiny_models import SHAPES, build_tiny_model
from tests.unit.trainer_core.quant.test_gptq import build_quantizer
from trainer_core.quantizers import GPTQQuantizer, compressor
from trainer_core.quantizers.calibration_batches import Batching, batch_samples
from trainer_core.quantizers.calibration_room import CalibrationRoom, measure_room
from trainer_core.quantizers.hessian_sums import HessianSums, add_products, select_rows
from trainer_core.types import Batch


def build_sample(length: int, *, first: int = 1) -> Batch:
    input_ids = torch.arange(first, first + length)[None]
    return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}


def build_room(max_tokens: int, *, max_bytes: float = float("inf"), bytes_per_pair: int = 0) -> CalibrationRoom:
    return CalibrationRoom(max_tokens, max_bytes, bytes_per_token=1, bytes_per_pair=bytes_per_pair)


@pytest.mark.parametrize(
    ("batching", "lengths", "room", "expected"),
    [
        (Batching.NONE, [4, 4, 4], build_room(100), [(1, 4)] * 3),
        (Batching.EQUAL, [4, 6, 4, 6, 4], build_room(100), [(2, 6), (3, 4)]),
        (Batching.EQUAL, [4, 4, 4, 4, 4], build_room(8), [(2, 4), (2, 4), (1, 4)]),
        (Batching.PADDED, [6, 8, 7, 2, 2], build_room(100), [(3, 8), (2, 2)]),
        (Batching.PADDED, [8, 8, 8], build_room(4), [(1, 8)] * 3),
        (Batching.PADDED, [8, 8, 8], build_room(100, max_bytes=150, bytes_per_pair=1), [(2, 8), (1, 8)]),
    ],
    ids=["alone", "equal", "few tokens", "little padding", "longer than the room", "square of the length"],
)
def test_samples_share_batches_as_far_as_the_room_goes(
    batching: Batching, lengths: list[int], room: CalibrationRoom, expected: list[tuple[int, int]]
) -> None:
    samples = [build_sample(length, first=i) for i, length in enumerate(lengths)]
    batches = batch_samples(samples, room=room, batching=batching)
    assert [tuple(batch.inputs["input_ids"].shape) for batch in batches] == expected
    assert all(bool(batch.inputs["attention_mask"].all()) for batch in batches)
    rows = [select_rows(batch.inputs["input_ids"][..., None], batch.is_token) for batch in batches]
    tokens = torch.cat(rows).flatten().sort().values
    assert torch.equal(tokens, torch.cat([sample["input_ids"][0] for sample in samples]).sort().values)


def test_a_sample_with_a_mask_of_its_own_stays_alone() -> None:
    masked = build_sample(4) | {"attention_mask": torch.tensor([[1, 1, 1, 0]])}
    batches = batch_samples([masked, build_sample(4), build_sample(4)], room=build_room(100), batching=Batching.PADDED)
    assert [len(batch.inputs["input_ids"]) for batch in batches] == [2, 1]
    assert batches[1].inputs["attention_mask"].tolist() == [[1, 1, 1, 0]]


@pytest.mark.parametrize("num_columns", [64, 1100])
def test_the_sums_equal_the_products_of_all_rows(num_columns: int) -> None:
    torch.manual_seed(0)
    first, second, alone = nn.Linear(num_columns, 2), nn.Linear(num_columns, 3), nn.Linear(num_columns, 2)
    sums = HessianSums()
    seen: dict[nn.Module, list[torch.Tensor]] = {first: [], second: [], alone: []}
    for length in (5, 3):
        shared, other = torch.randn(2, length, num_columns), torch.randn(2, length, num_columns)
        is_token = torch.ones(2, length, dtype=torch.bool)
        is_token[1, -1] = False
        for layer, inputs in ((first, shared), (second, shared), (alone, other)):
            sums.add(layer, inputs, is_token=is_token)
            seen[layer].append(inputs[is_token].double())
    taken = sums.take_all()
    assert taken[first][0] is taken[second][0]
    for layer, (found, num_samples) in taken.items():
        rows = torch.cat(seen[layer])
        torch.testing.assert_close(found, (2 * rows.T @ rows).float(), atol=1e-4, rtol=1e-5)
        assert num_samples == 4
    assert not sums.take_all()


def test_layers_that_share_only_some_inputs_have_sums_of_their_own() -> None:
    first, second = nn.Linear(4, 2), nn.Linear(4, 2)
    sums, (both, one, two) = HessianSums(), torch.randn(3, 1, 6, 4)
    for layer, inputs in ((first, both), (second, both), (first, one), (second, two)):
        sums.add(layer, inputs, is_token=None)
    taken = sums.take_all()
    for layer, own in ((first, one), (second, two)):
        rows = torch.cat([both[0], own[0]])
        torch.testing.assert_close(taken[layer][0], 2 * rows.T @ rows)


def test_an_input_that_is_changed_after_it_was_read_is_refused() -> None:
    sums, inputs = HessianSums(), torch.randn(1, 6, 4)
    sums.add(nn.Linear(4, 2), inputs, is_token=None)
    inputs += 1
    with pytest.raises(ValueError, match="in place"):
        sums.take_all()


def test_padding_cannot_be_left_out_of_an_input_that_is_not_a_row_a_token() -> None:
    with pytest.raises(ValueError, match="not one row a token"):
        select_rows(torch.randn(2, 7, 4), torch.ones(2, 6, dtype=torch.bool))


def test_16_bit_rows_are_added_up_in_fp32() -> None:
    torch.manual_seed(0)
    rows, total = torch.randn(500, 32).bfloat16(), torch.zeros(32, 32)
    add_products(total, rows)
    torch.testing.assert_close(total, (rows.double().T @ rows.double()).float(), atol=1e-4, rtol=1e-5)


def quantize(config: Any, folder: Path, *, room: CalibrationRoom | None, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The quantizer after its work; `room` None: sample by sample, as llm-compressor's own statistics are taken."""
    from trainer_core.quantizers.gptq_modifier import StrictGPTQModifier

    folder.mkdir()
    quantizer = build_quantizer(config, folder)
    with monkeypatch.context() as patch:
        patch.setattr(compressor, "measure_room", lambda model: room)
        if room is None:
            # The library's own way is what ours must equal.
            patch.setattr(GPTQQuantizer, "batching", Batching.NONE)
            patch.delattr(StrictGPTQModifier, "calibrate_module")
        quantizer.quantize()
    return quantizer


def test_batches_with_padding_give_the_integers_of_the_librarys_own_way(
    make_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config()
    ours = quantize(config, tmp_path / "ours", room=build_room(400), monkeypatch=monkeypatch)
    assert any(batch.is_token is not None and not bool(batch.is_token.all()) for batch in ours.batches)
    assert len(ours.batches) < len(ours.calibration) / 2
    theirs = quantize(config, tmp_path / "theirs", room=None, monkeypatch=monkeypatch)
    num_weights = num_differing = 0
    for name in ours.plan.quantized:
        layer, other = (each.model.get_submodule(name) for each in (ours, theirs))
        torch.testing.assert_close(layer.weight_scale, other.weight_scale, atol=0, rtol=0)
        num_weights += layer.weight.numel()
        num_differing += int((layer.weight != other.weight).sum())
    # Sums in another order round a weight on the edge between two integers the other way, here and there.
    assert num_differing <= num_weights / 1000
    events = [json.loads(line) for line in (tmp_path / "ours" / "events.jsonl").read_text().splitlines()]
    decision = next(event for event in events if event["type"] == "decision")
    assert decision["data"]["num_batches"] == len(ours.batches)


def test_the_room_on_a_cpu_is_a_modest_number_of_tokens(make_config: Any, tmp_path: Path) -> None:
    room = measure_room(build_quantizer(make_config(), tmp_path).model)
    assert room.fits(num_samples=2, length=1024)
    assert not room.fits(num_samples=3, length=1024)


WINDOW: dict[str, object] = {"sliding_window": 16, "num_key_value_heads": 2, "pad_token_id": 2}
SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("llama", {}),
        ("mistral", {"sliding_window": None}),
        pytest.param("mistral", WINDOW, marks=SLOW),
        pytest.param("phi3", WINDOW, marks=SLOW),
        pytest.param("gemma2", WINDOW | {"head_dim": 16}, marks=SLOW),
        pytest.param("qwen3", {}, marks=SLOW),
        pytest.param("opt", {}, marks=SLOW),
        pytest.param("gpt_neox", {}, marks=SLOW),
    ],
)
@pytest.mark.parametrize("batching", [Batching.NONE, Batching.PADDED])
def test_layers_see_what_the_model_gives_them_when_it_runs_by_itself(
    make_config: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    fields: dict[str, object],
    batching: Batching,
) -> None:
    monkeypatch.setitem(SHAPES, family, SHAPES.get(family, {}))
    base = build_tiny_model(tmp_path / "base", family=family, **fields)
    config = make_config(model_name_or_path=str(base), gptq_group_size=32)
    expected: dict[str, torch.Tensor] = {}
    quantizer = build_quantizer(config, tmp_path)
    model: Any = AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager")
    for name in (name for name in quantizer.plan.quantized if "layers.0." in name):

        def add(_module: nn.Module, args: Any, name: str = name) -> None:
            rows = args[0].reshape(-1, args[0].shape[-1])
            expected[name] = expected.get(name, torch.zeros(())) + 2 * rows.T @ rows

        model.get_submodule(name).register_forward_pre_hook(add)
    with torch.no_grad():
        for sample in quantizer.calibration:
            model(input_ids=sample["input_ids"], attention_mask=sample["attention_mask"], use_cache=False)
    names = {module: name for name, module in quantizer.model.named_modules()}
    found: dict[str, torch.Tensor] = {}
    take_all = HessianSums.take_all

    def take_and_tell(sums: HessianSums) -> Any:
        taken = take_all(sums)
        found.update({names[layer]: total.clone() for layer, (total, _) in taken.items()})
        return taken

    # The statistics are gone once a layer is solved.
    monkeypatch.setattr(HessianSums, "take_all", take_and_tell)
    monkeypatch.setattr(type(quantizer), "batching", batching)
    monkeypatch.setattr(compressor, "measure_room", lambda model: build_room(400))
    quantizer.quantize()
    assert len(expected) >= 4
    for name, total in expected.items():
        assert float((found[name] - total).norm() / total.norm()) < 1e-5, name
    assert not hasattr(quantizer.model.config, "attn_implementation")
