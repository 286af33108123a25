"""One system on one case, in a process of its own: prints a line of JSON.

`python -m bench.train_systems SYSTEM CASE [--lever NAME]`; the driver is `bench.train`.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from bench.train_cases import CASES, LEVERS, Case, build_model, build_tokenizer, count_parameters, make_samples

NUM_WINDOWS = 3
LOSS_STEPS = 20


class Meter:
    """Times windows of steps; the device is waited for at their edges only."""

    def __init__(self, case: Case, *, count_tokens: Callable[[], int]) -> None:
        self.losses: list[float] = []
        self.rates: list[float] = []
        self._case = case
        self._count_tokens = count_tokens
        self._step = 0
        self._mark = (0.0, 0)

    def finish_step(self) -> None:
        """After each optimizer step."""
        self._step += 1
        passed = self._step - self._case.num_warmup_steps
        if passed < 0 or passed % self._case.num_steps:
            return
        synchronize()
        now, tokens = time.perf_counter(), self._count_tokens()
        if passed:
            self.rates.append((tokens - self._mark[1]) / (now - self._mark[0]))
        self._mark = (now, tokens)

    @property
    def num_steps(self) -> int:
        """Of the whole run."""
        return self._case.num_warmup_steps + NUM_WINDOWS * self._case.num_steps


def run_finesmith(case: Case, options: dict[str, Any], *, is_loss_run: bool) -> dict[str, Any]:
    """The Experiment of the step train, with a model in memory."""
    from transformers import TrainerCallback

    from trainer_core.collators import LMCollator
    from trainer_core.config import build_config
    from trainer_core.experiments import Experiment
    from trainer_core.models.bnb_layers import quantize_linear_layers
    from trainer_core.models.kbit import prepare_for_kbit_training
    from trainer_core.models.quantization import build_quantization_config

    device = find_device()
    folder = tempfile.mkdtemp(prefix="fs-train-")
    meter = Meter(case, count_tokens=lambda: int(experiment.trainer.state.num_input_tokens_seen))  # type: ignore[union-attr]
    num_steps = LOSS_STEPS if is_loss_run else meter.num_steps
    config = build_config(
        {
            **{"model_name_or_path": "random", "output_dir": folder, "max_steps": num_steps, "warmup_steps": 0},
            **{"learning_rate": 1e-4, "optim": "adamw_torch_fused", "logging_steps": 1 if is_loss_run else 1000},
            **{"save_steps": 100_000, "per_device_train_batch_size": case.batch_size, "torch_compile": "auto"},
            **case.config,
            **options,
        }
    )
    if config.torch_compile == "auto" and device == "cuda" and config.tokens_per_batch is not None:
        # So few steps are not worth compiling for; a real training is.
        config.torch_compile = "on"
    model = build_model(case.shape, device=device)
    settings = build_quantization_config(config)
    if settings is not None:
        quantize_linear_layers(model, settings)
        model = prepare_for_kbit_training(model, config=config)
    samples = make_samples(3_000, vocab_size=model.config.vocab_size)
    tokenizer = build_tokenizer()
    collator = LMCollator(tokenizer, max_length=2048)
    if config.packing == "off":
        collator = _PaddedTokens(tokenizer, max_length=2048)
    experiment = Experiment(
        config,
        model=model,
        tokenizer=tokenizer,
        train_dataset=samples,  # type: ignore[arg-type]
        collator=collator,
    )
    experiment.save_config = lambda: None  # type: ignore[method-assign]
    experiment.build()
    trainer = experiment.trainer
    assert trainer is not None

    class Watch(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            meter.finish_step()

    trainer.add_callback(Watch())
    del model
    trainer._maybe_log_save_evaluate = without_saving(trainer)  # type: ignore[method-assign]
    started_at = time.perf_counter()
    reset_peak()
    trainer.train()
    wall_seconds = time.perf_counter() - started_at
    losses = [record["loss"] for record in trainer.state.log_history if "loss" in record]
    return summarize(meter, case, losses=losses, wall_seconds=wall_seconds)


def without_saving(trainer: Any) -> Callable[..., None]:
    """The trainer's own reporting, without the checkpoint at the end of a measurement."""
    original = trainer._maybe_log_save_evaluate

    def report(*args: Any, **kwargs: Any) -> None:
        trainer.control.should_save = False
        original(*args, **kwargs)

    return report


def _build_padded_tokens() -> type:
    from trainer_core.collators.token_collator import TokenCollator, pad_samples

    class PaddedTokens(TokenCollator):
        """Pads samples that are tokens already."""

        def encode_whole(self, raw_batch: Any) -> Any:
            raise NotImplementedError

        def __call__(self, raw_batch: Any) -> Any:
            return pad_samples(raw_batch, pad_token_id=2, side="right")

    return PaddedTokens


def _PaddedTokens(tokenizer: Any, *, max_length: int) -> Any:
    return _build_padded_tokens()(tokenizer, max_length)


def run_hf_trainer(case: Case, options: dict[str, Any], *, is_loss_run: bool) -> dict[str, Any]:
    """X-LLM's recipe: transformers' Trainer, samples padded to the longest of their batch, autocast."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

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

    class Watch(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            meter.finish_step()

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
        callbacks=[Watch()],
    )
    started_at = time.perf_counter()
    trainer.train()
    losses = [record["loss"] for record in trainer.state.log_history if "loss" in record]
    return summarize(meter, case, losses=losses, wall_seconds=time.perf_counter() - started_at)


def run_trl(case: Case, options: dict[str, Any], *, is_loss_run: bool) -> dict[str, Any]:
    """TRL's SFTTrainer with packing and Liger, by the attention that is installed."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    model = with_adapter(build_model(case.shape, device="cuda"), case)
    meter = Meter(case, count_tokens=lambda: seen["tokens"])
    seen = {"tokens": 0}

    class Counting(SFTTrainer):
        def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            mask = inputs.get("attention_mask")
            seen["tokens"] += int(inputs["input_ids"].numel() if mask is None else mask.sum())
            return super().training_step(model, inputs, *args, **kwargs)

    class Watch(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            meter.finish_step()

    samples = make_samples(4_000, vocab_size=model.config.vocab_size)
    trainer = Counting(
        model=model,
        args=SFTConfig(
            **build_peer_arguments(case, num_steps=meter.num_steps, logging_steps=1000),
            packing=True,
            max_length=2048,
            use_liger_kernel=True,
        ),
        train_dataset=Dataset.from_dict({"input_ids": [sample.input_ids for sample in samples]}),
        processing_class=build_tokenizer(),
        callbacks=[Watch()],
    )
    started_at = time.perf_counter()
    trainer.train()
    return summarize(meter, case, losses=[], wall_seconds=time.perf_counter() - started_at)


def run_unsloth(case: Case, options: dict[str, Any], *, is_loss_run: bool) -> dict[str, Any]:
    """Unsloth's own recipe with packing; its model comes from a folder that is made on the spot."""
    os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
    folder = Path(tempfile.gettempdir()) / f"unsloth-{case.shape}"
    if not folder.is_dir():
        build_model(case.shape, device="cuda").save_pretrained(folder, max_shard_size="20GB")
        build_tokenizer().save_pretrained(folder)
    from unsloth import FastLanguageModel  # isort: skip - it changes the others when it comes first

    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    is_in_4_bits = bool(case.config.get("load_in_4bit"))
    model, tokenizer = FastLanguageModel.from_pretrained(
        str(folder), max_seq_length=2048, dtype=torch.bfloat16, load_in_4bit=is_in_4_bits, local_files_only=True
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

    class Watch(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            meter.finish_step()

    samples = make_samples(4_000, vocab_size=SHAPES_VOCAB)
    trainer = SFTTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=Dataset.from_dict({"input_ids": [sample.input_ids for sample in samples]}),
        args=SFTConfig(
            **build_peer_arguments(case, num_steps=meter.num_steps, logging_steps=1000, checkpoints=False),
            packing=True,
            max_length=2048,
        ),
        callbacks=[Watch()],
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


SHAPES_VOCAB = 128_256

SYSTEMS: dict[str, Callable[..., dict[str, Any]]] = {
    "finesmith": run_finesmith,
    "hf-trainer": run_hf_trainer,
    "trl": run_trl,
    "unsloth": run_unsloth,
}


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


def summarize(meter: Meter, case: Case, *, losses: list[float], wall_seconds: float) -> dict[str, Any]:
    """What the driver wants of a run."""
    import torch

    facts: dict[str, Any] = {"wall_seconds": round(wall_seconds, 1)}
    if losses:
        facts["losses"] = [round(loss, 5) for loss in losses]
    if meter.rates:
        facts["tokens_per_second"] = round(median(meter.rates))
        facts["windows"] = [round(rate) for rate in meter.rates]
    if torch.cuda.is_available():
        facts["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 1)
        if meter.rates:
            operations = (4 if case.has_lora else 6) * count_parameters(case.shape)
            facts["peak_tflops"] = round(measure_peak() / 1e12)
            facts["mfu"] = round(median(meter.rates) * operations / measure_peak(), 3)
    return facts


def measure_peak() -> float:
    """Operations a second of a large bf16 product on this device, now."""
    import torch

    matrix = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    for _ in range(3):
        matrix @ matrix
    synchronize()
    started_at = time.perf_counter()
    for _ in range(10):
        matrix @ matrix
    synchronize()
    return 10 * 2 * 8192**3 / (time.perf_counter() - started_at)


def find_device() -> str:
    """`cuda` or `cpu`."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def reset_peak() -> None:
    """Forgets what making the model took: a quantized one is made of a whole one here."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def synchronize() -> None:
    """Waits for the device."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main() -> None:
    """Runs one and prints what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("system", choices=list(SYSTEMS))
    parser.add_argument("case", choices=list(CASES))
    parser.add_argument("--lever", choices=list(LEVERS), default="all")
    parser.add_argument("--losses", action="store_true", help=f"the losses of {LOSS_STEPS} steps instead of the rate")
    options = parser.parse_args()
    facts = SYSTEMS[options.system](CASES[options.case], LEVERS[options.lever], is_loss_run=options.losses)
    print("RESULT " + json.dumps(facts), flush=True)


if __name__ == "__main__":
    main()
