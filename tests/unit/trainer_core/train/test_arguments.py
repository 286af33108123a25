"""From a Config to TrainingArguments, optimizer and trainer."""

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import Trainer

from tests.unit.trainer_core.train.conftest import RecordedEvents
from trainer_core.config import Config
from trainer_core.errors import ConfigError
from trainer_core.models.dtype import choose_dtype
from trainer_core.trainers import LMTrainer, trainers_registry
from trainer_core.trainers.arguments import build_training_arguments
from trainer_core.trainers.building import find_constructor_parameters, get_trainer_class
from trainer_core.trainers.rate import TrainingRate

MakeConfig = Callable[..., Config]


def test_the_config_reaches_the_training_arguments(make_config: MakeConfig, events: RecordedEvents) -> None:
    config = make_config(
        per_device_train_batch_size=3,
        gradient_accumulation_steps=5,
        warmup_steps=7,
        max_steps=11,
        learning_rate=3e-3,
        weight_decay=0.2,
        label_smoothing_factor=0.1,
        max_grad_norm=0.5,
        save_steps=13,
        save_total_limit=2,
        logging_steps=17,
        neftune_noise_alpha=5.0,
        use_gradient_checkpointing=True,
        huggingface_hub_token="hf_secret",
        seed=9,
    )
    arguments = build_training_arguments(config, events=events)
    assert (arguments.per_device_train_batch_size, arguments.per_device_eval_batch_size) == (3, 3)
    assert (arguments.gradient_accumulation_steps, arguments.eval_accumulation_steps) == (5, 5)
    assert (arguments.warmup_steps, arguments.max_steps, arguments.learning_rate) == (7, 11, 3e-3)
    assert (arguments.weight_decay, arguments.label_smoothing_factor, arguments.max_grad_norm) == (0.2, 0.1, 0.5)
    assert (arguments.save_steps, arguments.logging_steps, arguments.neftune_noise_alpha) == (13, 17, 5.0)
    assert (arguments.seed, arguments.data_seed) == (9, 9)
    assert arguments.gradient_checkpointing
    assert arguments.gradient_checkpointing_kwargs == {"use_reentrant": False}
    assert not arguments.push_to_hub
    assert arguments.hub_token is None
    assert arguments.report_to == []
    assert not arguments.remove_unused_columns
    assert not arguments.bf16
    assert not arguments.fp16
    assert arguments.save_total_limit is None


def test_one_pass_is_the_default_and_no_eval_steps_means_at_the_end(
    make_config: MakeConfig, events: RecordedEvents
) -> None:
    arguments = build_training_arguments(make_config(do_eval=True, eval_steps=None), events=events)
    assert (arguments.max_steps, arguments.num_train_epochs) == (-1, 1)
    assert arguments.eval_strategy == "steps"
    assert arguments.eval_steps > 10**6


@pytest.mark.parametrize(
    ("values", "has_cuda", "has_bf16", "dtype"),
    [
        ({}, False, False, torch.float32),
        ({"force_fp16": True}, False, False, torch.float32),
        ({}, True, True, torch.bfloat16),
        ({}, True, False, torch.float16),
        ({"force_fp16": True}, True, True, torch.float16),
        ({"force_fp32": True}, True, True, torch.float32),
    ],
)
def test_the_dtype_follows_device_and_config(
    make_config: MakeConfig,
    monkeypatch: pytest.MonkeyPatch,
    values: dict[str, object],
    has_cuda: bool,
    has_bf16: bool,
    dtype: torch.dtype,
) -> None:
    # GPUs of other kinds than the one here, if any.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: has_bf16)
    assert choose_dtype(make_config(**values)) is dtype
    assert choose_dtype(make_config(**values), use_cpu=True) is torch.float32


class PassesAllOn(LMTrainer):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


class ExactlyAsXllm(LMTrainer):
    def __init__(
        self,
        config: Any,
        model: Any,
        args: Any,
        data_collator: Any,
        train_dataset: Any,
        ignore_index: Any,
        eval_dataset: Any,
    ) -> None:
        super().__init__(config, model, args, data_collator, train_dataset, ignore_index, eval_dataset)


class PassesAllOnToTrainer(Trainer):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)


@pytest.mark.parametrize(
    ("trainer_cls", "takes_config"),
    [(LMTrainer, True), (PassesAllOn, True), (ExactlyAsXllm, True), (Trainer, False), (PassesAllOnToTrainer, False)],
)
def test_our_own_arguments_go_to_constructors_that_take_them(trainer_cls: type, takes_config: bool) -> None:
    names = find_constructor_parameters(trainer_cls)
    assert ({"config", "ignore_index"} <= names) == takes_config
    assert {"model", "args", "data_collator", "train_dataset", "eval_dataset"} <= names


def test_a_registered_value_that_is_no_trainer_is_refused(make_config: MakeConfig) -> None:
    trainers_registry.add(key="no-trainer", value=dict, override=True)
    with pytest.raises(ConfigError, match=r"transformers\.Trainer"):
        get_trainer_class(make_config(trainer_key="no-trainer"))


def test_the_rate_leaves_pauses_out() -> None:
    now = iter([0.0, 2.0, 50.0, 51.0])
    rate = TrainingRate(clock=lambda: next(now))
    rate.start(num_tokens_seen=1000)
    rate.finish_step(num_tokens_seen=1400)
    assert rate.tokens_per_second() == 200.0
    rate.pause()
    rate.finish_step(num_tokens_seen=1600)
    assert rate.tokens_per_second() == 200.0
    assert rate.eta_seconds(num_steps_left=4) == 6.0
    rate.begin_window()
    assert rate.tokens_per_second() is None


def test_the_rate_counts_what_the_device_still_had_to_do() -> None:
    now = iter([0.0, 0.5, 2.0, 2.5, 4.0])
    rate = TrainingRate(clock=lambda: next(now))
    rate.start(num_tokens_seen=0)
    for num_tokens_seen in (400, 800):
        rate.finish_step(num_tokens_seen=num_tokens_seen)
        rate.settle()
        assert rate.tokens_per_second() == 200.0
        rate.begin_window()
    assert rate.eta_seconds(num_steps_left=4) == 8.0


def test_reading_the_registries_imports_no_torch() -> None:
    import subprocess

    code = (
        "import sys, trainer_core.trainers as t, trainer_core.experiments as e, trainer_core.checkpoints; "
        "print(t.trainers_registry.keys(), e.experiments_registry.keys()); "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert "['default', 'lm'] ['base']" in process.stdout
