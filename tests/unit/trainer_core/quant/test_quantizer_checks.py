"""Which keys go with which quantizer."""

import pytest

from trainer_core.config import build_config
from trainer_core.errors import ConfigError

REFUSED = [
    ({"quantizer_key": "fp8", "gptq_group_size": 64}, "gptq_group_size", "gptq' and 'awq"),
    ({"quantizer_key": "bnb", "gptq_group_size": 64}, "gptq_group_size", "gptq' and 'awq"),
    ({"quantizer_key": "awq", "dampening_frac": 0.1}, "dampening_frac", "gptq' and 'w8a8"),
    ({"quantizer_key": "fp8", "actorder": None}, "actorder", "leave it at 'static'"),
    ({"quantizer_key": "gptq", "smoothing_strength": 0.8}, "smoothing_strength", "w8a8"),
    ({"quantizer_key": "awq", "quantization_format": "gptq"}, "quantization_format", "change quantizer_key='awq'"),
    ({"quantizer_key": "bnb", "gptq_bits": 3}, "gptq_bits", "4 and 8 bits"),
    ({"quantizer_key": "fp8", "gptq_bits": 2}, "gptq_bits", "8 bits only"),
    ({"quantizer_key": "w8a8", "gptq_bits": 3}, "gptq_bits", "8 bits only"),
    ({"actorder": "group"}, "actorder", "use 'static'"),
    ({"gptq_group_size": 0}, "gptq_group_size", "0 is neither"),
]
ACCEPTED = [
    {"gptq_bits": 2},
    {"gptq_bits": 3, "gptq_group_size": -1, "dampening_frac": 0.1, "actorder": None},
    {"quantizer_key": "awq", "gptq_bits": 3, "gptq_group_size": 32},
    {"quantizer_key": "w8a8", "gptq_bits": 8, "smoothing_strength": 0, "dampening_frac": 0.1, "actorder": None},
    {"quantizer_key": "fp8", "gptq_bits": 8},
    {"quantizer_key": "bnb", "gptq_bits": 8, "bnb_4bit_quant_type": "fp4"},
    {"quantizer_key": "a-plugin's", "gptq_group_size": 7, "smoothing_strength": 0.9, "gptq_bits": 3},
]


@pytest.mark.parametrize(("values", "param", "words"), REFUSED)
def test_a_key_that_the_quantizer_does_not_read_is_refused(values: dict, param: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        build_config(values)
    assert caught.value.param == param


@pytest.mark.parametrize("values", ACCEPTED)
def test_what_the_quantizer_reads_is_accepted(values: dict) -> None:
    config = build_config(values)
    assert {name: getattr(config, name) for name in values} == values


@pytest.mark.parametrize("value", [0, 1, -0.1, float("nan"), "x"])
def test_dampening_is_a_share(value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        build_config({"dampening_frac": value})
    assert caught.value.param == "dampening_frac"


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), "x"])
def test_smoothing_strength_is_between_none_and_all(value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        build_config({"quantizer_key": "w8a8", "smoothing_strength": value})
    assert caught.value.param == "smoothing_strength"
