"""Samples in a row learn what padded samples learn, and nothing of each other."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.support.tiny_models import SHAPES
from trainer_core.collators.encoded_sample import EncodedSample, encode_sample
from trainer_core.collators.token_collator import pad_samples
from trainer_core.kernels.choosing import compare_losses
from trainer_core.kernels.fused_loss import FusedLoss, find_obstacle
from trainer_core.padding_free.attention import BoundaryError, RowAttention
from trainer_core.padding_free.model_check import find_unexact_layers, find_unexactness
from trainer_core.padding_free.rows import Row, RowShape, build_row

EXACT: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama with a tied head": ("llama", {"tie_word_embeddings": True}),
    "mistral with a window": ("mistral", {"sliding_window": 5}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
    "gemma3 with a window": ("gemma3_text", {"sliding_window": 6, "head_dim": 16, "num_key_value_heads": 2}),
    "phi3": ("phi3", {"num_key_value_heads": 2, "pad_token_id": 2}),
    "gpt2": ("gpt2", {}),
    "gpt_neox": ("gpt_neox", {}),
    "mixtral": ("mixtral", {}),
    "granite with scaled logits": ("granite", {"num_key_value_heads": 2, "logits_scaling": 4.0}),
    "olmo2": ("olmo2", {"num_key_value_heads": 2}),
}
VOCAB_SIZE = 128
LENGTHS = (9, 17, 4, 26)


def build(family: str, **fields: Any) -> Any:
    shape = {
        **{"vocab_size": VOCAB_SIZE, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2},
        **{"num_attention_heads": 4, "max_position_embeddings": 128, "pad_token_id": 0},
        **{"attention_dropout": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0},
    }
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **(shape | SHAPES.get(family, {}) | fields))
    return AutoModelForCausalLM.from_config(config).train()


def make_samples(*, seed: int = 0) -> list[EncodedSample]:
    generator = torch.Generator().manual_seed(seed)
    return [
        encode_sample(
            torch.randint(3, VOCAB_SIZE, (length,), generator=generator).tolist(),
            [place > length // 3 for place in range(length)],
        )
        for length in LENGTHS
    ]


def lay(samples: list[EncodedSample], *, multiple: int = 1) -> Row:
    return build_row(samples, shape=RowShape(capacity=128, longest=32, multiple=multiple), fill_token_id=0)


def read_grads(model: Any) -> dict[str, torch.Tensor]:
    grads = {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}
    model.zero_grad()
    return grads


@pytest.mark.parametrize("name", EXACT)
def test_losses_and_gradients_equal_those_of_padded_samples(name: str) -> None:
    family, fields = EXACT[name]
    model = build(family, **fields)
    samples = make_samples()
    padded = pad_samples(samples, pad_token_id=0, side="right")
    expected = model(**padded, use_cache=False).loss
    expected.backward()
    expected_grads = read_grads(model)

    assert find_unexact_layers(model.config) is None
    assert find_unexactness(model, device="cpu") is None
    for order in (samples, samples[::-1]):
        for multiple in (1, 64):
            with RowAttention(model).active():
                loss = model(**lay(order, multiple=multiple).inputs).loss
            loss.backward()
            assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
            for key, grad in read_grads(model).items():
                torch.testing.assert_close(grad, expected_grads[key], atol=1e-5, rtol=1e-3, msg=key)


@pytest.mark.parametrize("name", EXACT)
def test_the_logits_of_a_sample_do_not_depend_on_its_neighbours(name: str) -> None:
    family, fields = EXACT[name]
    model = build(family, **fields).eval()
    assert find_unexactness(model, device="cpu") is None
    samples, others = make_samples(), make_samples(seed=1)
    start, end = LENGTHS[0], LENGTHS[0] + LENGTHS[1]
    with torch.no_grad(), RowAttention(model).active():
        logits, changed = (
            model(**lay(each).inputs).logits[0] for each in (samples, [others[0], samples[1], *others[2:]])
        )
    assert torch.equal(logits[start:end], changed[start:end])
    assert not torch.equal(logits[:start], changed[:start])


@pytest.mark.parametrize("name", EXACT)
def test_the_fused_loss_is_the_models_own(name: str) -> None:
    family, fields = EXACT[name]
    model = build(family, **fields)
    assert find_unexactness(model, device="cpu") is None
    row = lay(make_samples(), multiple=64)
    attention = RowAttention(model)
    with attention.active():
        check_fused_loss(model, row)


def test_a_head_may_compute_the_loss_itself() -> None:
    family, fields = EXACT["llama"]
    model = build(family, **fields)
    row = lay(make_samples(), multiple=64)
    with RowAttention(model).active():
        check_fused_loss(model, row, is_in_head=True)


def check_fused_loss(model: Any, row: Row, *, is_in_head: bool = False) -> None:
    expected = model(**row.inputs, num_items_in_batch=torch.tensor(7)).loss
    expected.backward()
    expected_grads = read_grads(model)
    fused = FusedLoss(model, is_in_head=is_in_head)
    with fused.over(row.target_index_K, row.target_ids_K):
        loss = model(**row.inputs, num_items_in_batch=torch.tensor(7)).loss
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    loss.backward()
    for key, grad in read_grads(model).items():
        torch.testing.assert_close(grad, expected_grads[key], atol=1e-6, rtol=1e-3, msg=key)
    fused.detach()
    assert model(**row.inputs, num_items_in_batch=torch.tensor(7)).loss.item() == pytest.approx(expected.item())


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "olmoe"])
def test_experts_that_round_by_what_shares_them_are_no_reason_to_pad(family: str) -> None:
    model = build(family)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(4.0 if weight.dim() > 1 else 1.0)

    assert find_unexactness(model, device="cpu") is None


def test_a_loss_for_the_balance_of_experts_is_a_reason_to_pad() -> None:
    config = build("mixtral", output_router_logits=True).config
    assert "balance of its experts" in str(find_unexact_layers(config))


def test_a_model_that_bends_its_logits_is_told_from_one_that_does_not() -> None:
    fields = {"sliding_window": 64, "head_dim": 16, "num_key_value_heads": 2}
    for softcap, is_same in ((None, True), (0.5, False)):
        model = build("gemma3_text", **fields, final_logit_softcapping=softcap)
        assert find_unexactness(model, device="cpu") is None
        problem = find_obstacle(model) or compare_losses(model, device=torch.device("cpu"))
        assert (problem is None) == is_same, problem


@pytest.mark.parametrize(
    ("family", "fields", "reason"),
    [
        ("falcon", {"alibi": True}, "ALiBi"),
        ("gpt2", {}, "drops weights"),
        ("qwen3_next", {"layer_types": ["linear_attention", "full_attention"]}, "linear_attention"),
        ("llama4_text", {"layer_types": ["chunked_attention", "full_attention"]}, "chunked_attention"),
    ],
)
def test_models_that_carry_a_state_or_look_elsewhere_are_named(
    family: str, fields: dict[str, Any], reason: str
) -> None:
    config = AutoConfig.for_model(family, num_hidden_layers=2, **fields)
    assert reason in str(find_unexact_layers(config))


@pytest.mark.parametrize(
    ("family", "fields", "reason"),
    [
        ("gemma2", {"sliding_window": 6, "head_dim": 16, "num_key_value_heads": 2}, "softcap"),
        ("bloom", {"n_layer": 2, "n_head": 4}, ""),
        ("mamba", {"num_hidden_layers": 1}, ""),
    ],
)
def test_a_model_that_is_not_exact_keeps_its_attention(family: str, fields: dict[str, Any], reason: str) -> None:
    model = build(family, **fields)
    before = model.config._attn_implementation
    problem = find_unexactness(model, device="cpu")
    assert problem is not None
    assert reason in problem
    assert model.config._attn_implementation == before
    assert model.training


def test_padded_batches_are_refused_where_rows_are_expected() -> None:
    model = build("llama")
    assert find_unexactness(model, device="cpu") is None
    batch = pad_samples(make_samples(), pad_token_id=0, side="right")
    with pytest.raises(BoundaryError), RowAttention(model).active():
        model(**batch, use_cache=False)
    assert model(**batch, use_cache=False).loss.item() > 0
