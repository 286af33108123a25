"""One system on one case, in a process of its own: prints a line of JSON.

`python -m bench.train_systems SYSTEM CASE [--lever NAME]`; the driver is `bench.train`.
"""

import argparse
import contextlib
import importlib.metadata
import json
import tempfile
import time
from collections.abc import Callable
from typing import Any

from bench.train_cases import CASES, LEVERS, MAX_LENGTH, Case, build_model, build_tokenizer, make_samples
from bench.train_measuring import LOSS_STEPS, Meter, build_watch, find_device, reset_peak, summarize
from bench.train_peers import run_hf_trainer, run_trl, run_unsloth

PACKAGES = (
    *("torch", "triton", "transformers", "peft", "accelerate", "deepspeed", "liger-kernel", "bitsandbytes"),
    *("trl", "unsloth"),
)


def run_finesmith(case: Case, options: dict[str, Any], *, is_loss_run: bool) -> dict[str, Any]:
    """The Experiment of the step train, with a model in memory."""
    from trainer_core.collators import LMCollator
    from trainer_core.experiments import Experiment
    from trainer_core.models.bnb_layers import quantize_linear_layers
    from trainer_core.models.kbit import prepare_for_kbit_training
    from trainer_core.models.quantization import build_quantization_config

    device = find_device()
    folder = tempfile.mkdtemp(prefix="fs-train-")
    meter = Meter(case, count_tokens=lambda: int(experiment.trainer.state.num_input_tokens_seen))  # type: ignore[union-attr]
    num_steps = LOSS_STEPS if is_loss_run else meter.num_steps
    config = build_case_config(case, options, folder=folder, num_steps=num_steps, is_loss_run=is_loss_run)
    model = build_model(case.shape, device=device, max_length=case.max_length)
    settings = build_quantization_config(config)
    if settings is not None:
        quantize_linear_layers(model, settings)
        model = prepare_for_kbit_training(model, config=config)
    samples = make_samples(3_000, vocab_size=model.config.vocab_size, length=case.length)
    tokenizer = build_tokenizer()
    collator = LMCollator(tokenizer, max_length=case.max_length)
    if config.packing == "off":
        collator = build_padding_collator(tokenizer)
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

    trainer.add_callback(build_watch(meter))
    del model
    trainer._maybe_log_save_evaluate = without_saving(trainer)  # type: ignore[method-assign]
    started_at = time.perf_counter()
    reset_peak()
    trainer.train()
    wall_seconds = time.perf_counter() - started_at
    losses = [record["loss"] for record in trainer.state.log_history if "loss" in record]
    return summarize(meter, case, losses=losses, wall_seconds=wall_seconds)


def build_case_config(case: Case, options: dict[str, Any], *, folder: str, num_steps: int, is_loss_run: bool) -> Any:
    """The Config of one run."""
    from trainer_core.config import build_config

    config = build_config(
        {
            **{"model_name_or_path": "random", "output_dir": folder, "max_steps": num_steps, "warmup_steps": 0},
            **{"learning_rate": 1e-4, "optim": "adamw_torch_fused", "logging_steps": 1 if is_loss_run else 1000},
            **{"save_steps": 100_000, "per_device_train_batch_size": case.batch_size, "torch_compile": "auto"},
            **case.config,
            **options,
        }
    )
    if config.torch_compile == "auto" and find_device() == "cuda" and config.tokens_per_batch is not None:
        # So few steps are not worth compiling for; a real training is.
        config.torch_compile = "on"
    return config


def without_saving(trainer: Any) -> Callable[..., None]:
    """The trainer's own reporting, without the checkpoint at the end of a measurement."""
    original = trainer._maybe_log_save_evaluate

    def report(*args: Any, **kwargs: Any) -> None:
        trainer.control.should_save = False
        original(*args, **kwargs)

    return report


def build_padding_collator(tokenizer: Any) -> Any:
    """Pads samples that are tokens already."""
    from trainer_core.collators.token_collator import TokenCollator, pad_samples

    class PaddedTokens(TokenCollator):
        def encode_whole(self, raw_batch: Any) -> Any:
            raise NotImplementedError

        def __call__(self, raw_batch: Any) -> Any:
            return pad_samples(raw_batch, pad_token_id=2, side="right")

    return PaddedTokens(tokenizer, max_length=MAX_LENGTH)


def read_versions() -> dict[str, str]:
    """Of the packages that this system finds installed."""
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


SYSTEMS: dict[str, Callable[..., dict[str, Any]]] = {
    "finesmith": run_finesmith,
    "hf-trainer": run_hf_trainer,
    "trl": run_trl,
    "unsloth": run_unsloth,
}


def main() -> None:
    """Runs one and prints what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("system", choices=list(SYSTEMS))
    parser.add_argument("case", choices=list(CASES))
    parser.add_argument("--lever", choices=list(LEVERS), default="all")
    parser.add_argument("--losses", action="store_true", help=f"the losses of {LOSS_STEPS} steps instead of the rate")
    options = parser.parse_args()
    facts = SYSTEMS[options.system](CASES[options.case], LEVERS[options.lever], is_loss_run=options.losses)
    facts["versions"] = read_versions()
    print("RESULT " + json.dumps(facts), flush=True)


if __name__ == "__main__":
    main()
