"""Experts make a sample's numbers round by its neighbours; what flows between samples is told from that."""

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tests.unit.trainer_core.padding_free.test_exactness import build
from trainer_core.padding_free.model_check import find_unexactness, has_unused_weights

FULL = ["full_attention"] * 2
SMALL = {"num_key_value_heads": 2, "head_dim": 16, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
ROUTED = SMALL | {
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "first_k_dense_replace": 0,
    "n_group": 1,
    "topk_group": 1,
}
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16}
EXPERTS: dict[str, dict[str, Any]] = {
    "mixtral": SMALL | {"num_local_experts": 8},
    "qwen2_moe": SMALL | {"num_experts": 8, "shared_expert_intermediate_size": 32},
    "qwen3_moe": SMALL | {"num_experts": 8},
    "olmoe": {"num_experts": 8, "num_experts_per_tok": 2},
    "deepseek_v3": ROUTED | LATENT | {"num_key_value_heads": 4, "head_dim": 8},
    "glm4_moe": ROUTED,
    "granitemoe": {"num_key_value_heads": 2, "num_local_experts": 8, "num_experts_per_tok": 2},
    "llama4_text": SMALL | {"num_local_experts": 8, "intermediate_size_mlp": 64, "layer_types": FULL},
    "minimax_m2": SMALL | {"num_local_experts": 8, "rotary_dim": 8},
}
MIXED = "numbers change with another sample"


def build_experts(family: str, *, dtype: torch.dtype = torch.float32, std: float | None = None, **fields: Any) -> Any:
    """`std`: of all weights, None: as small as at a beginning."""
    model = build(family, **EXPERTS[family], **fields)
    with torch.no_grad():
        for weight in model.parameters():
            if std is not None and weight.dim() > 1:
                weight.normal_(std=std)
    return model.to(dtype)


def average(hidden_1TD: torch.Tensor) -> torch.Tensor:
    return hidden_1TD.mean(1, keepdim=True)


def shift(hidden_1TD: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.pad(hidden_1TD, (0, 0, 1, -1))


def mix_tokens(module: torch.nn.Module, *, strength: float, of: Any = average) -> None:
    """Adds to each token something of the others of its row; padded samples are left alone."""

    def mix(_module: Any, _inputs: Any, output: Any) -> Any:
        hidden_BTD, *rest = output if isinstance(output, tuple) else (output,)
        if len(hidden_BTD) == 1:
            hidden_BTD = hidden_BTD + strength * of(hidden_BTD)
        return (hidden_BTD, *rest) if isinstance(output, tuple) else hidden_BTD

    module.register_forward_hook(mix)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("family", EXPERTS)
def test_experts_are_no_reason_to_pad(family: str, dtype: torch.dtype) -> None:
    for std in (None, 0.1):
        assert find_unexactness(build_experts(family, dtype=dtype, std=std), device="cpu") is None


@pytest.mark.parametrize("family", ["mixtral", "olmoe", "deepseek_v3"])
def test_experts_wide_enough_to_round_in_bf16_are_no_reason_to_pad(family: str) -> None:
    model = build_experts(family, dtype=torch.bfloat16, std=512**-0.5, hidden_size=512)
    assert find_unexactness(model, device="cpu") is None


@pytest.mark.parametrize(
    ("dtype", "of", "strengths"),
    [
        (torch.float32, average, (1e-4, 1e-3, 1e-2, 0.1)),
        (torch.float16, average, (1e-4, 1e-3, 1e-2, 0.1)),
        # What is smaller is mostly rounded away where it is added, and changes nothing.
        (torch.bfloat16, average, (1e-3, 1e-2, 0.1)),
        # Here one token of the other sample is added to, not all of them.
        (torch.float32, shift, (1e-3, 1e-2, 0.1)),
        (torch.bfloat16, shift, (1e-2, 0.1)),
    ],
    ids=["fp32", "fp16", "bf16", "fp32, one token", "bf16, one token"],
)
@pytest.mark.parametrize("family", EXPERTS)
def test_tokens_of_other_samples_are_a_reason_to_pad_however_weak(
    family: str, dtype: torch.dtype, of: Any, strengths: tuple[float, ...]
) -> None:
    for std, strength in itertools.product((None, 0.1), strengths):
        model = build_experts(family, dtype=dtype, std=std)
        mix_tokens(model.model.layers[0], strength=strength, of=of)
        assert MIXED in str(find_unexactness(model, device="cpu")), (std, strength)


@pytest.mark.gpu
@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "olmoe", "llama4_text"])
def test_the_kernels_of_a_gpu_add_up_zeros_too(family: str) -> None:
    for strength in (0.0, 1e-2):
        model = build_experts(family, dtype=torch.bfloat16, std=512**-0.5, hidden_size=512).to("cuda")
        mix_tokens(model.model.layers[0], strength=strength)
        problem = find_unexactness(model, device="cuda")
        assert (problem is None) == (strength == 0), problem


def test_an_adapter_hides_no_tokens_of_other_samples_and_is_left_as_it_was() -> None:
    for strength in (0.0, 1e-3):
        model = get_peft_model(build_experts("mixtral", dtype=torch.bfloat16), LoraConfig(target_modules=["q_proj"]))
        mix_tokens(model.get_base_model().model.layers[0], strength=strength)
        is_trained = [weight.requires_grad for weight in model.parameters()]
        assert (find_unexactness(model, device="cpu") is None) == (strength == 0)
        assert [weight.requires_grad for weight in model.parameters()] == is_trained
        assert all(weight.grad is None for weight in model.parameters())
        assert not model.get_base_model().get_input_embeddings()._forward_hooks


def test_where_no_gradient_can_be_had_a_small_change_is_a_reason_to_pad() -> None:
    model = build_experts("mixtral")
    mix_tokens(model.model.layers[1], strength=1e-6)
    model.model.norm.register_forward_hook(lambda _module, _inputs, output: output.detach())
    assert MIXED in str(find_unexactness(model, device="cpu"))


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("gemma4_text", {"num_key_value_heads": 2, "head_dim": 16, "layer_types": FULL}),
        ("hunyuan_v1_moe", SMALL | {"num_experts": 1, "moe_topk": 1, "num_experts_per_tok": 1}),
        (
            "granitemoehybrid",
            {"num_local_experts": 0, "shared_intermediate_size": 32, "layer_types": ["attention"] * 2},
        ),
    ],
)
def test_settings_of_experts_that_are_not_there_do_not_count(family: str, fields: dict[str, Any]) -> None:
    assert not has_unused_weights(build(family, **({"num_key_value_heads": 2} | fields)), device="cpu")


@pytest.mark.parametrize(
    "settings",
    [
        AutoConfig.for_model("dbrx"),
        AutoConfig.for_model("deepseek_v3"),
        PreTrainedConfig(moe_num_experts=[0, 64]),
    ],
    ids=["in a part", "routed", "for each layer"],
)
def test_experts_count_wherever_settings_name_them(settings: Any) -> None:
    assert has_unused_weights(SimpleNamespace(config=settings), device="cpu")


@pytest.mark.slow
def test_no_family_of_transformers_has_experts_unseen() -> None:
    families = []
    for family in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        try:
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family))
        # Some cannot be built from their defaults.
        except Exception:  # noqa: BLE001
            continue
        if any("experts" in name and "shared" not in name for name, _ in model.named_parameters()):
            families.append(family)
            assert has_unused_weights(model, device="meta"), family
    assert len(families) > 40
