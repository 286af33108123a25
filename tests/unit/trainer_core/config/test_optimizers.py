"""The list of optimizers is transformers' own."""

from trainer_core.config.optimizers import OPTIMIZERS, OPTIMIZERS_ELSEWHERE


def test_every_optimizer_of_transformers_is_named_once() -> None:
    from transformers.training_args import OptimizerNames

    assert sorted([*OPTIMIZERS, *OPTIMIZERS_ELSEWHERE]) == sorted(name.value for name in OptimizerNames)
