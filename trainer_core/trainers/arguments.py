"""From a Config to transformers' TrainingArguments."""

import sys
from typing import Any

import torch
from transformers import TrainingArguments

from trainer_core.config import Config
from trainer_core.config.optimizers import is_low_rank
from trainer_core.config.schedulers import FOLLOWS_EVAL_LOSS, SCHEDULERS
from trainer_core.config.tracking_checks import find_tracking_warnings
from trainer_core.config.training_checks import find_training_warnings
from trainer_core.context import EventSink
from trainer_core.models.dtype import choose_dtype
from trainer_core.models.kbit import CHECKPOINTING_OPTIONS
from trainer_core.trainers.optimizer_choice import choose_optimizer
from trainer_core.trainers.parallel import build_parallel_options, check_filled_settings, drop_cpu_number

_NEVER = 1_000_000_000


def build_training_arguments(config: Config, *, events: EventSink) -> TrainingArguments:
    """The arguments of a Trainer.

    What could leak or go wrong is kept out: nothing of the Hub and no token is passed, because Trainer pickles its
    arguments beside the weights; `save_total_limit` is not passed, because Trainer deletes the older checkpoint before
    the newer is known to be whole (a callback does it afterwards).
    """
    dtype = choose_dtype(config)
    batch_size = config.per_device_train_batch_size
    for problem in (*find_training_warnings(config), *find_tracking_warnings(config)):
        events.emit("warning", level="warning", message=problem.message, data={"param": problem.param})
    optimization = _choose_optimization(config, events=events)
    arguments = TrainingArguments(
        **(optimization | build_parallel_options(config, optimizer=optimization["optim"], events=events)),
        output_dir=config.output_dir,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=config.per_device_eval_batch_size or batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        eval_accumulation_steps=config.eval_accumulation_steps or config.gradient_accumulation_steps,
        eval_strategy="steps" if config.do_eval or config.lr_scheduler_type in FOLLOWS_EVAL_LOSS else "no",
        eval_delay=config.eval_delay,
        eval_steps=config.eval_steps or _NEVER,
        warmup_steps=config.warmup_steps,
        max_steps=config.max_steps or -1,
        num_train_epochs=config.num_train_epochs,
        max_grad_norm=config.max_grad_norm,
        label_smoothing_factor=config.label_smoothing_factor,
        neftune_noise_alpha=config.neftune_noise_alpha,
        logging_steps=config.logging_steps,
        logging_first_step=True,
        # A diverged loss is told as it is, not as the mean of the losses before it.
        logging_nan_inf_filter=False,
        include_num_input_tokens_seen="non_padding",
        save_strategy="steps",
        save_steps=config.save_steps,
        seed=config.seed,
        data_seed=config.seed,
        bf16=dtype is torch.bfloat16,
        fp16=dtype is torch.float16,
        gradient_checkpointing=config.use_gradient_checkpointing,
        gradient_checkpointing_kwargs=dict(CHECKPOINTING_OPTIONS) if config.use_gradient_checkpointing else None,
        # The collator needs the columns that the model does not know.
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        # The trackers are callbacks of our own: transformers' want environment variables.
        report_to="none",
        run_name=config.run_name,
        log_level="warning",
        disable_tqdm=not sys.stderr.isatty(),
    )
    check_filled_settings(arguments)
    drop_cpu_number(arguments)
    return arguments


def _choose_optimization(config: Config, *, events: EventSink) -> dict[str, Any]:
    """The arguments about the optimizer and the course of the learning rate."""
    optimizer = choose_optimizer(config, events=events)
    return {
        "optim": optimizer,
        "optim_args": config.optim_args,
        "optim_target_modules": (config.optim_target_modules or "all-linear") if is_low_rank(optimizer) else None,
        "learning_rate": config.learning_rate,
        "weight_decay": config.weight_decay,
        "adam_beta1": config.adam_beta1,
        "adam_beta2": config.adam_beta2,
        "adam_epsilon": config.adam_epsilon,
        "lr_scheduler_type": config.lr_scheduler_type,
        "lr_scheduler_kwargs": read_scheduler_options(config),
    }


def read_scheduler_options(config: Config) -> dict[str, Any]:
    """`lr_scheduler_kwargs` with numbers and bools where a command line gave text."""
    known = SCHEDULERS[config.lr_scheduler_type]
    readers: dict[str, Any] = {"number": float, "integer": int, "flag": lambda value: str(value).lower() == "true"}
    given = config.lr_scheduler_kwargs or {}
    return {name: readers.get(str(known[name]), str)(value) for name, value in given.items()}
