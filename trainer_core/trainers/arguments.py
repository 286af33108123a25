"""From a Config to transformers' TrainingArguments."""

import importlib
import sys
from typing import Any

import torch
from transformers import TrainingArguments

from trainer_core.config import Config
from trainer_core.context import EventSink
from trainer_core.models.dtype import choose_dtype
from trainer_core.models.kbit import CHECKPOINTING_OPTIONS

_NEVER = 1_000_000_000
_BITSANDBYTES_WORDS = ("8bit", "32bit", "paged_", "bnb", "ademamix", "lion")


def build_training_arguments(config: Config, *, events: EventSink) -> TrainingArguments:
    """The arguments of a Trainer.

    What could leak or go wrong is kept out: nothing of the Hub and no token is passed, because Trainer pickles its
    arguments beside the weights; `save_total_limit` is not passed, because Trainer deletes the older checkpoint before
    the newer is known to be whole (a callback does it afterwards).
    """
    dtype = choose_dtype(config)
    batch_size = config.per_device_train_batch_size
    options: dict[str, Any] = {"optim": choose_optimizer(config, events=events)} if config.optim else {}
    return TrainingArguments(
        **options,
        output_dir=config.output_dir,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=config.per_device_eval_batch_size or batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        eval_accumulation_steps=config.eval_accumulation_steps or config.gradient_accumulation_steps,
        eval_strategy="steps" if config.do_eval else "no",
        eval_delay=config.eval_delay,
        eval_steps=config.eval_steps or _NEVER,
        warmup_steps=config.warmup_steps,
        max_steps=config.max_steps or -1,
        num_train_epochs=config.num_train_epochs,
        learning_rate=config.learning_rate,
        max_grad_norm=config.max_grad_norm,
        weight_decay=config.weight_decay,
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
        report_to=list(config.report_to) or "none",
        log_level="warning",
        disable_tqdm=not sys.stderr.isatty(),
    )


def choose_optimizer(config: Config, *, events: EventSink) -> str:
    """The Config's optimizer, or its replacement, with a warning event, where bitsandbytes cannot run it."""
    wanted = config.optim or "adamw_torch"
    if not any(word in wanted for word in _BITSANDBYTES_WORDS):
        return wanted
    replacement, reason = wanted, ""
    try:
        importlib.import_module("bitsandbytes")
    except (ImportError, OSError, RuntimeError) as error:
        replacement = "rmsprop" if "rmsprop" in wanted else "adamw_torch"
        reason = f"needs bitsandbytes, which cannot be used here ({error})"
    else:
        if not torch.cuda.is_available():
            replacement = wanted.removeprefix("paged_")
            reason = "keeps its state in pages of GPU memory, and there is no GPU"
    if replacement == "adamw_32bit":
        replacement = "adamw_torch"
    if replacement != wanted:
        events.emit(
            "warning",
            level="warning",
            message=f"optim={wanted!r} {reason}; {replacement!r} takes its place",
            data={"param": "optim", "wanted": wanted, "used": replacement},
        )
    return replacement
