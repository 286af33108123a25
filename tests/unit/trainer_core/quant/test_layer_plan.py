"""Which layers a quantizer takes and how their weights are grouped."""

import pytest
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

from tests.support.tiny_models import build_tiny_gpt2
from trainer_core.errors import QuantizationError
from trainer_core.quantizers.layer_plan import check_experts, describe_misfits, plan_layers


def build_llama(*, hidden_size: int = 64, intermediate_size: int = 96) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return LlamaForCausalLM(config)


@pytest.mark.parametrize(
    ("group_size", "num_grouped", "num_per_channel"),
    [
        pytest.param(32, 7, 0, id="divides both widths"),
        pytest.param(64, 6, 1, id="divides 64 but not the down projection's 96"),
        pytest.param(-1, 0, 7, id="asked for one scale a row"),
        pytest.param(128, 0, 7, id="wider than every layer"),
    ],
)
def test_layers_are_grouped_where_the_group_size_divides_their_width(
    group_size: int, num_grouped: int, num_per_channel: int
) -> None:
    plan = plan_layers(build_llama(), group_size=group_size)
    assert (len(plan.grouped), len(plan.per_channel)) == (num_grouped, num_per_channel)
    assert plan.ignored == ("lm_head",)


def test_a_fallback_to_one_scale_a_row_is_described_with_the_layers_and_the_option() -> None:
    model = build_llama()
    misfits = describe_misfits(plan_layers(model, group_size=64), model=model, group_size=64)
    assert misfits is not None
    assert "gptq_group_size=64" in misfits
    assert "down_proj (96 columns)" in misfits


@pytest.mark.parametrize("group_size", [32, -1])
def test_nothing_is_described_when_every_layer_got_what_was_asked_for(group_size: int) -> None:
    model = build_llama()
    plan = plan_layers(model, group_size=group_size)
    assert describe_misfits(plan, model=model, group_size=group_size) is None


def build_mixtral() -> MixtralForCausalLM:
    config = MixtralConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=2,
    )
    return MixtralForCausalLM(config)


def test_routers_of_experts_stay_whole() -> None:
    plan = plan_layers(build_mixtral(), group_size=32)
    assert not [name for name in plan.quantized if name.endswith(("gate", "router"))]


def test_a_mixture_of_experts_is_refused_where_it_could_not_be_loaded_again() -> None:
    with pytest.raises(QuantizationError, match="MixtralForCausalLM is a mixture of experts") as caught:
        check_experts(build_mixtral())
    assert caught.value.param == "quantizer_key"


def test_a_model_without_linear_layers_is_refused(tmp_path) -> None:
    from transformers import GPT2LMHeadModel

    model = GPT2LMHeadModel.from_pretrained(build_tiny_gpt2(tmp_path))
    with pytest.raises(QuantizationError, match=r"GPT2LMHeadModel has no linear layer.*'bnb'"):
        plan_layers(model, group_size=32)


def test_gpt2s_layers_count_where_a_quantizer_can_take_them(tmp_path) -> None:
    from transformers import GPT2LMHeadModel

    plan = plan_layers(GPT2LMHeadModel.from_pretrained(build_tiny_gpt2(tmp_path)), with_conv1d=True)
    assert len(plan.quantized) == 8
    assert plan.ignored == ("lm_head",)
    assert plan.num_widest_columns == 256


def test_the_widest_layer_is_told() -> None:
    assert plan_layers(build_llama(hidden_size=64, intermediate_size=96)).num_widest_columns == 96


def test_a_models_own_kind_of_linear_layer_is_none_that_the_libraries_take() -> None:
    from transformers import FalconConfig, FalconForCausalLM

    config = FalconConfig(vocab_size=64, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    with pytest.raises(QuantizationError, match="FalconForCausalLM has no linear layer"):
        plan_layers(FalconForCausalLM(config), group_size=32)
