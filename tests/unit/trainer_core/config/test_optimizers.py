"""The tables of optimizers and schedulers are transformers' own, and what does not fit is told before anything runs."""

import inspect

import pytest

from trainer_core.config import Config, build_config, find_problems
from trainer_core.config.optimizers import OPTIMIZERS, OPTIONS, REFUSED
from trainer_core.config.schedulers import SCHEDULERS
from trainer_core.config.training_checks import find_training_warnings


def test_every_optimizer_of_transformers_is_named_once() -> None:
    from transformers.training_args import OptimizerNames

    assert sorted([*OPTIMIZERS, *REFUSED]) == sorted(name.value for name in OptimizerNames)
    assert set(OPTIONS) <= set(OPTIMIZERS)


def test_every_scheduler_of_transformers_is_named_with_options_that_it_takes() -> None:
    from torch.optim.lr_scheduler import ReduceLROnPlateau
    from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION, GreedyLR
    from transformers.trainer_utils import SchedulerType

    assert sorted(SCHEDULERS) == sorted(name.value for name in SchedulerType)
    classes = {"greedy": GreedyLR, "reduce_lr_on_plateau": ReduceLROnPlateau}
    for name, options in SCHEDULERS.items():
        builder = classes.get(name, TYPE_TO_SCHEDULER_FUNCTION[SchedulerType(name)])
        assert set(options) <= set(inspect.signature(builder).parameters), name


@pytest.mark.parametrize(
    ("values", "param", "code", "hint"),
    [
        ({"optim": "adamw_8bits"}, "optim", "invalid_value", "'adamw_8bit'"),
        ({"optim": "adamw_torch_xla"}, "optim", "invalid_value", "XLA"),
        ({"optim": "adamw_torch_npu_fused"}, "optim", "invalid_value", "NPU"),
        ({"optim": "galore_adafactor_layerwise"}, "optim", "invalid_value", "galore_adafactor"),
        ({"optim": ""}, "optim", "invalid_value", "at least 1 character"),
        ({"optim": "sgd", "optim_args": "momentum"}, "optim_args", "invalid_value", "name=value"),
        ({"optim": "sgd", "optim_args": "a=b=c"}, "optim_args", "invalid_value", "name=value"),
        ({"optim": "sgd", "optim_args": "nestrov=True"}, "optim_args", "unknown_key", "nesterov"),
        ({"optim": "sgd", "optim_args": "momentum=much"}, "optim_args", "invalid_value", "a number"),
        ({"optim": "sgd", "optim_args": "momentum=nan"}, "optim_args", "invalid_value", "finite"),
        ({"optim": "sgd", "optim_args": "nesterov=True"}, "optim_args", "invalid_value", "momentum=0.9"),
        ({"optim": "adamw_torch", "optim_args": "momentum=1"}, "optim_args", "unknown_key", "no options"),
        ({"optim": "galore_adamw", "optim_args": "rank=2.5"}, "optim_args", "invalid_value", "whole number"),
        ({"optim": "galore_adamw", "optim_args": "proj_type=x"}, "optim_args", "invalid_value", "reverse_std"),
        ({"optim": "stable_adamw", "optim_args": "kahan_sum=False"}, "optim_args", "invalid_value", "left out"),
        ({"optim": "sgd", "optim_target_modules": "q_proj"}, "optim_target_modules", "conflict", "GaLore"),
        (
            {"optim": "lomo", "gradient_accumulation_steps": 2},
            "gradient_accumulation_steps",
            "conflict",
            "gradient_accumulation_steps=1",
        ),
        ({"adam_beta1": 1.0}, "adam_beta1", "invalid_value", "less than 1"),
        ({"adam_epsilon": 0}, "adam_epsilon", "invalid_value", "greater than 0"),
        ({"loraplus_lr_ratio": 16}, "loraplus_lr_ratio", "conflict", "apply_lora"),
        ({"loraplus_lr_ratio": float("inf"), "apply_lora": True}, "loraplus_lr_ratio", "invalid_value", "finite"),
        (
            {"loraplus_lr_ratio": 16, "apply_lora": True, "optim": "galore_adamw"},
            "loraplus_lr_ratio",
            "conflict",
            "adamw_torch",
        ),
        ({"loraplus_lr_embedding": 1e-3}, "loraplus_lr_embedding", "conflict", "loraplus_lr_ratio"),
        ({"lr_scheduler_type": "cosin"}, "lr_scheduler_type", "invalid_value", "'cosine'"),
        ({"lr_scheduler_kwargs": {"num_cycles": 2}}, "lr_scheduler_kwargs", "unknown_key", "no options"),
        ({"lr_scheduler_kwargs": "{"}, "lr_scheduler_kwargs", "invalid_value", "JSON"),
        ({"lr_scheduler_kwargs": [1]}, "lr_scheduler_kwargs", "invalid_type", "dictionary"),
    ],
)
def test_what_optimizer_and_scheduler_cannot_take_is_told(
    values: dict[str, object], param: str, code: str, hint: str
) -> None:
    problem = find_problems(values)[0]
    assert (problem.param, problem.code) == (param, code), problem
    assert hint in problem.message


@pytest.mark.parametrize(
    ("name", "options", "hint"),
    [
        ("cosine", {"num_cyles": 2}, "num_cycles"),
        ("cosine", {"num_cycles": "two"}, "a number"),
        ("cosine", {"num_cycles": None}, "a number"),
        ("cosine", {"num_cycles": True}, "a number"),
        ("cosine_with_restarts", {"num_cycles": -1}, "whole number"),
        ("cosine_with_min_lr", None, "min_lr_rate"),
        ("cosine_with_min_lr", {"min_lr": 1e-6, "min_lr_rate": 0.1}, "either"),
        ("polynomial", {"lr_end": 1}, "learning_rate"),
        ("warmup_stable_decay", None, "num_decay_steps"),
        ("warmup_stable_decay", {"num_decay_steps": 10, "decay_type": "steep"}, "1-sqrt"),
        ("warmup_stable_decay", {"num_decay_steps": 10}, "max_steps=15"),
        ("greedy", None, "min_lr"),
        ("reduce_lr_on_plateau", {"factor": 2}, "between 0 and 1"),
    ],
)
def test_options_of_a_scheduler_that_do_not_fit_are_told(name: str, options: object, hint: str) -> None:
    values = {"lr_scheduler_type": name, "lr_scheduler_kwargs": options, "max_steps": 15, "warmup_steps": 10}
    problem = find_problems(values)[0]
    assert problem.param == "lr_scheduler_kwargs"
    assert hint in problem.message


def test_a_key_that_the_optimizer_does_not_use_is_warned_of() -> None:
    def warned(**values: object) -> list[str | None]:
        return [problem.param for problem in find_training_warnings(build_config(values))]

    assert warned() == []
    assert warned(optim="sgd", adam_beta1=0.8, weight_decay=0.1) == ["adam_beta1"]
    assert warned(optim="adamw_torch", adam_beta1=0.8) == []
    assert warned(optim="lion_8bit", adam_beta1=0.8, adam_epsilon=1e-6) == ["adam_epsilon"]
    assert warned(optim="galore_adamw_layerwise", weight_decay=0.1, max_grad_norm=2.0) == [
        "weight_decay",
        "max_grad_norm",
    ]
    assert warned(lr_scheduler_type="constant", warmup_steps=7) == ["warmup_steps"]


def test_the_defaults_that_warnings_compare_with_are_the_configs() -> None:
    from trainer_core.config import training_checks

    assert {name: getattr(Config(), name) for name in training_checks._DEFAULTS} == training_checks._DEFAULTS
