"""The peers: each trains the same model on samples of the same lengths, by its own recipe."""

import os
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.train_cases import SHAPES, Case, build_model, build_tokenizer, make_samples
from bench.train_measuring import LOSS_STEPS, Meter, build_watch, find_device, summarize


def run_hf_trainer(case: Case, options: dict[str, Any], *, is_loss_run: bool) -> dict[str, Any]:
    """X-LLM's recipe: transformers' Trainer, samples padded to the longest of their batch, autocast."""
    from transformers import Trainer, TrainingArguments

    from trainer_core.collators.token_collator import pad_samples

    device = find_device()
    model = with_adapter(build_model(case.shape, device=device), case)
    meter = Meter(case, count_tokens=lambda: seen["tokens"])
    seen = {"tokens": 0}
    num_steps = LOSS_STEPS if is_loss_run else meter.num_steps

    class Padding(Trainer):
        def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            seen["tokens"] += int(inputs["attention_mask"].sum())
            return super().training_step(model, inputs, *args, **kwargs)

    arguments = TrainingArguments(
        **build_peer_arguments(case, num_steps=num_steps, logging_steps=1 if is_loss_run else 1000),
        remove_unused_columns=False,
        dataloader_num_workers=2 if device == "cuda" else 0,
    )
    trainer = Padding(
        model=model,
        args=arguments,
        train_dataset=make_samples(num_steps * case.batch_size + 8, vocab_size=model.config.vocab_size),
        data_collator=lambda samples: pad_samples(samples, pad_token_id=2, side="right"),
        callbacks=[build_watch(meter)],
    )
    started_at = time.perf_counter()
    trainer.train()
    losses = [record["loss"] for record in trainer.state.log_history if "loss" in record]
    return summarize(meter, case, losses=losses, wall_seconds=time.perf_counter() - started_at)


def run_trl(case: Case, options: dict[str, Any], *, is_loss_run: bool) -> dict[str, Any]:
    """TRL's SFTTrainer with packing and Liger, by the attention that is installed."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    model = with_adapter(build_model(case.shape, device="cuda"), case)
    meter = Meter(case, count_tokens=lambda: seen["tokens"])
    seen = {"tokens": 0}

    class Counting(SFTTrainer):
        def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            mask = inputs.get("attention_mask")
            seen["tokens"] += int(inputs["input_ids"].numel() if mask is None else mask.sum())
            return super().training_step(model, inputs, *args, **kwargs)

    samples = make_samples(4_000, vocab_size=model.config.vocab_size, length=case.length)
    trainer = Counting(
        model=model,
        args=SFTConfig(
            **build_peer_arguments(case, num_steps=meter.num_steps, logging_steps=1000),
            packing=True,
            max_length=case.max_length,
            use_liger_kernel=True,
        ),
        train_dataset=Dataset.from_dict({"input_ids": [sample.input_ids for sample in samples]}),
        processing_class=build_tokenizer(),
        callbacks=[build_watch(meter)],
    )
    started_at = time.perf_counter()
    trainer.train()
    return summarize(meter, case, losses=[], wall_seconds=time.perf_counter() - started_at)


def run_unsloth(case: Case, options: dict[str, Any], *, is_loss_run: bool) -> dict[str, Any]:
    """Unsloth's own recipe with packing; its model comes from a folder that is made on the spot."""
    os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
    folder = Path(tempfile.gettempdir()) / f"unsloth-{case.shape}-{case.max_length}"
    if not folder.is_dir():
        build_model(case.shape, device="cuda", max_length=case.max_length).save_pretrained(
            folder, max_shard_size="20GB"
        )
        build_tokenizer().save_pretrained(folder)
    from unsloth import FastLanguageModel  # isort: skip - it changes the others when it comes first

    import torch
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    is_in_4_bits = bool(case.config.get("load_in_4bit"))
    model, tokenizer = FastLanguageModel.from_pretrained(
        str(folder),
        max_seq_length=case.max_length,
        dtype=torch.bfloat16,
        load_in_4bit=is_in_4_bits,
        local_files_only=True,
    )
    model = FastLanguageModel.get_peft_model(
        model,
        r=8,
        lora_alpha=32,
        lora_dropout=case.config.get("lora_dropout", 0.1),
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        use_gradient_checkpointing="unsloth" if case.checkpoints else False,
    )
    meter = Meter(case, count_tokens=lambda: seen["tokens"])
    seen = {"tokens": 0}

    samples = make_samples(4_000, vocab_size=SHAPES["8b"]["vocab_size"], length=case.length)
    trainer = SFTTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=Dataset.from_dict({"input_ids": [sample.input_ids for sample in samples]}),
        args=SFTConfig(
            **build_peer_arguments(case, num_steps=meter.num_steps, logging_steps=1000, checkpoints=False),
            packing=True,
            max_length=case.max_length,
        ),
        callbacks=[build_watch(meter)],
    )
    original = trainer.training_step

    def count(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        mask = inputs.get("attention_mask")
        is_padded = mask is not None and mask.dim() == 2
        seen["tokens"] += int(mask.sum() if is_padded else inputs["input_ids"].numel())
        return original(model, inputs, *args, **kwargs)

    trainer.training_step = count
    started_at = time.perf_counter()
    trainer.train()
    return summarize(meter, case, losses=[], wall_seconds=time.perf_counter() - started_at)


def with_adapter(model: Any, case: Case) -> Any:
    """peft's LoRA on every linear layer, where the case trains an adapter."""
    if not case.has_lora:
        return model
    from peft import LoraConfig, get_peft_model

    dropout = case.config.get("lora_dropout", 0.1)
    settings = LoraConfig(r=8, lora_alpha=32, lora_dropout=dropout, target_modules="all-linear", task_type="CAUSAL_LM")
    if case.checkpoints:
        model.enable_input_require_grads()
    return get_peft_model(model, settings)


def build_peer_arguments(
    case: Case, *, num_steps: int, logging_steps: int, checkpoints: bool | None = None
) -> dict[str, Any]:
    """TrainingArguments that all peers share."""
    checkpoints = case.checkpoints if checkpoints is None else checkpoints
    return {
        **{"output_dir": tempfile.mkdtemp(prefix="fs-train-"), "max_steps": num_steps, "learning_rate": 1e-4},
        **{"per_device_train_batch_size": case.batch_size, "bf16": find_device() == "cuda", "report_to": []},
        **{"save_strategy": "no", "optim": "adamw_torch_fused", "gradient_checkpointing": checkpoints},
        **{"logging_steps": logging_steps, "disable_tqdm": True, "seed": 42, "data_seed": 42},
        **({"gradient_checkpointing_kwargs": {"use_reentrant": False}} if checkpoints else {}),
    }
