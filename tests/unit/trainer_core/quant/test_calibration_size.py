"""How much calibration data there must be."""

import pytest
import torch

from trainer_core.errors import StepInputError
from trainer_core.quantizers.calibration_size import check_calibration_size


def build_batches(*num_tokens: int) -> list:
    return [{"attention_mask": torch.ones(1, count, dtype=torch.long)} for count in num_tokens]


def test_as_many_tokens_as_the_widest_layer_has_inputs_are_enough() -> None:
    assert check_calibration_size(build_batches(60, 40), num_columns=100) is None


def test_fewer_tokens_than_inputs_are_a_warning_that_names_the_options() -> None:
    warning = check_calibration_size(build_batches(50, 49), num_columns=100)
    assert warning is not None
    assert "2 calibration samples hold 99 tokens" in warning
    assert "quantization_max_samples" in warning
    assert "quantization_dataset_id" in warning


def test_tokens_that_say_next_to_nothing_are_an_error() -> None:
    with pytest.raises(StepInputError, match=r"1 calibration samples hold 6 tokens.*'fp8' and 'bnb'") as caught:
        check_calibration_size(build_batches(6), num_columns=100)
    assert caught.value.param == "quantization_max_samples"
