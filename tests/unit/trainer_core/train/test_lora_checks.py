"""Options of the adapter that exclude each other, or need another."""

import pytest

from trainer_core.config import find_problems

DROPLESS: dict[str, object] = {"apply_lora": True, "lora_dropout": 0.0, "lora_target_parameters": "experts.down_proj"}


@pytest.mark.parametrize(
    ("values", "param", "said"),
    [
        ({"use_dora": True, "apply_lora": False}, "use_dora", "apply_lora=True"),
        ({"use_rslora": True, "apply_lora": False}, "use_rslora", "apply_lora=True"),
        ({"modules_to_save": "lm_head", "apply_lora": False}, "modules_to_save", "apply_lora=True"),
        ({"init_lora_weights": "pissa", "apply_lora": False}, "init_lora_weights", "apply_lora=True"),
        ({"init_lora_weights": "pissa", "load_in_4bit": True}, "init_lora_weights", "leave load_in_4bit out"),
        ({"init_lora_weights": "pissa_niter_4", "load_in_8bit": True}, "init_lora_weights", "leave load_in_8bit out"),
        ({"init_lora_weights": "loftq", "load_in_4bit": True}, "init_lora_weights", "has rounded"),
        ({"init_lora_weights": "olora", "from_gptq": True}, "init_lora_weights", "leave from_gptq out"),
        ({"init_lora_weights": "olora", "deepspeed_stage": 3}, "init_lora_weights", "stage 2"),
        ({"init_lora_weights": "orthogonal", "lora_rank": 7}, "lora_rank", "even"),
        ({"init_lora_weights": "eva"}, "init_lora_weights", "'pissa' or 'olora'"),
        ({"init_lora_weights": "pisa"}, "init_lora_weights", "pissa_niter_<n>"),
        ({"loftq_bits": 8}, "loftq_bits", "loftq"),
        ({"loftq_iter": 3, "init_lora_weights": "pissa"}, "loftq_iter", "loftq"),
        ({"loftq_iter": 0, "init_lora_weights": "loftq"}, "loftq_iter", ""),
        ({"loftq_bits": 3, "init_lora_weights": "loftq"}, "loftq_bits", ""),
        ({"use_dora": True, "from_gptq": True}, "use_dora", "packed"),
        ({"use_dora": True, "load_in_8bit": True}, "use_dora", "load_in_4bit"),
        (DROPLESS | {"lora_dropout": 0.1}, "lora_dropout", "lora_dropout=0"),
        (DROPLESS | {"use_dora": True}, "use_dora", "use_dora=False"),
        (DROPLESS | {"init_lora_weights": "orthogonal"}, "init_lora_weights", "'gaussian'"),
        ({"bnb_quantize_after_model_init": True}, "bnb_quantize_after_model_init", "load_in_4bit or load_in_8bit"),
        ({"lora_alpha": float("nan")}, "lora_alpha", ""),
        ({"lora_rank": 0}, "lora_rank", ""),
        ({"lora_dropout": 1.0}, "lora_dropout", ""),
        ({"modules_to_save": 3}, "modules_to_save", ""),
    ],
    ids=str,
)
def test_options_that_do_not_go_together_are_told_with_the_one_to_change(
    values: dict[str, object], param: str, said: str
) -> None:
    problems = find_problems({"apply_lora": True} | values)
    assert [said in problem.message for problem in problems if problem.param == param] == [True]


@pytest.mark.parametrize(
    "values",
    [
        DROPLESS,
        DROPLESS | {"init_lora_weights": "gaussian"},
        {"init_lora_weights": "orthogonal", "load_in_4bit": True},
        {"use_dora": True, "load_in_4bit": True},
        {"init_lora_weights": "loftq", "loftq_bits": 2, "loftq_iter": 5, "use_rslora": True},
        {"bnb_quantize_after_model_init": True, "load_in_8bit": True},
        {"init_lora_weights": "False"},
        {"modules_to_save": []},
    ],
    ids=str,
)
def test_options_that_go_together_are_accepted(values: dict[str, object]) -> None:
    assert find_problems({"apply_lora": True} | values) == []
