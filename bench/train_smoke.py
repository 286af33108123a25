"""Runs the four steps, and then QLoRA, on a Llama of about 1 B random weights: does it all work here, and how fast.

python -m bench.train_smoke --out bench/results/train-smoke.json      on a GPU, about 4 minutes, no network
python -m bench.train_smoke --tiny                                    anywhere, about a minute
"""

import argparse
import gc
import importlib.metadata
import json
import platform
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from trainer_core.config import Config, build_config
from trainer_core.context import StepContext
from trainer_core.enums import Step

PACKAGES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "llmcompressor", "compressed-tensors")
SYLLABLES = [consonant + vowel for consonant in "bcdfghjklmnprstvwz" for vowel in "aeiou"]


@dataclass(frozen=True, slots=True)
class Scale:
    """How large everything is."""

    shape: Mapping[str, int]
    vocab_size: int
    num_rows: int
    words_per_row: int
    max_length: int
    batch_size: int
    num_steps: int
    num_calibration_samples: int
    min_loss_drop: float
    """What the loss must fall by, in nats per token, for the training to count as one."""


LARGE = Scale(
    shape={
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    vocab_size=32_000,
    num_rows=512,
    words_per_row=900,
    max_length=1024,
    batch_size=8,
    num_steps=40,
    num_calibration_samples=64,
    min_loss_drop=0.3,
)
TINY = Scale(
    shape={
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    vocab_size=1_000,
    num_rows=32,
    words_per_row=40,
    max_length=64,
    batch_size=2,
    num_steps=12,
    num_calibration_samples=8,
    min_loss_drop=0.05,
)


class KeptEvents:
    """Keeps a step's events, and prints those a person wants to see."""

    def __init__(self) -> None:
        self.metrics: list[dict[str, Any]] = []

    def emit(
        self,
        type: str,
        *,
        message: str = "",
        level: str = "info",
        data: Mapping[str, Any] | None = None,
    ) -> None:
        """Takes one event."""
        if type == "metrics" and data and "loss" in data:
            self.metrics.append(dict(data))
        if type in ("decision", "warning"):
            print(f"  {type}: {message}", flush=True)


@dataclass(slots=True)
class Part:
    """What one part of the run showed."""

    name: str
    seconds: float = 0.0
    peak_gib: float | None = None
    first_loss: float | None = None
    last_loss: float | None = None
    tokens_per_second: float | None = None
    seconds_per_step: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def main() -> None:
    """Runs everything; ends with an error when a part fails or a loss does not fall."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a tiny model, for a machine without a GPU")
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    parser.add_argument("--folder", type=Path, help="folder to work in, kept; default: a temporary one, deleted")
    options = parser.parse_args()
    scale = TINY if options.tiny else LARGE
    folder = options.folder or Path(tempfile.mkdtemp(prefix="train-smoke-"))
    try:
        result = {"machine": describe_machine(), "scale": asdict(scale), "parts": run_all(scale, folder=folder)}
    finally:
        if options.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    text = json.dumps(result, indent=1, default=str)
    print(text)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text + "\n")


def run_all(scale: Scale, *, folder: Path) -> list[dict[str, Any]]:
    """Every part in order, each with its numbers."""
    # Here, so that --help does not wait for torch's friends.
    from trainer_core.steps.fuse import fuse
    from trainer_core.steps.prepare import prepare
    from trainer_core.steps.quantize import quantize
    from trainer_core.steps.train import train

    parts = [measure("make the model", lambda _: make_inputs(scale, folder=folder))]
    config = make_config(scale, folder=folder)
    qlora = make_config(scale, folder=folder, load_in_4bit=True, output_dir=str(folder / "qlora"))

    def run_training(config: Config) -> Callable[[KeptEvents], dict[str, Any]]:
        return lambda events: dict(train(config, context=StepContext(Step.TRAIN, events)).result.facts)

    parts += [
        measure("prepare", lambda events: dict(prepare(config, context=StepContext(Step.PREPARE, events)).facts)),
        measure("train lora", run_training(config)),
        measure("fuse", lambda events: dict(fuse(config, context=StepContext(Step.FUSE, events)).facts)),
        measure("quantize", lambda _: dict(quantize(config).facts)),
        measure("train qlora 4-bit", run_training(qlora)),
    ]
    for part in parts:
        if part.first_loss is not None and part.last_loss is not None:
            fell_by = part.first_loss - part.last_loss
            if not fell_by >= scale.min_loss_drop:
                raise SystemExit(f"{part.name}: the loss fell by {fell_by:.3f}, less than {scale.min_loss_drop}")
    return [asdict(part) for part in parts]


def measure(name: str, run: Callable[[KeptEvents], dict[str, Any]]) -> Part:
    """Runs a part and takes its time, its peak of GPU memory and what its metrics say."""
    print(f"{name} …", flush=True)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    events = KeptEvents()
    started_at = time.monotonic()
    part = Part(name, facts=run(events))
    part.seconds = round(time.monotonic() - started_at, 2)
    if torch.cuda.is_available():
        part.peak_gib = round(torch.cuda.max_memory_allocated() / 2**30, 3)
    # The first record is of one step, with all that is done for the first time.
    records = [each for each in events.metrics if each.get("tokens_per_second")][1:]
    if records:
        part.first_loss, part.last_loss = events.metrics[0]["loss"], events.metrics[-1]["loss"]
        rates = [each["tokens_per_second"] for each in records]
        part.tokens_per_second = round(len(rates) / sum(1 / rate for rate in rates), 1)
        tokens_per_step = part.facts["num_tokens"] / part.facts["global_step"]
        part.seconds_per_step = round(tokens_per_step / part.tokens_per_second, 4)
    print(f"  {part.seconds} s", flush=True)
    return part


def make_config(scale: Scale, *, folder: Path, **values: object) -> Config:
    """LoRA on all linear layers; `values` win."""
    defaults: dict[str, object] = {
        "model_name_or_path": str(folder / "model"),
        "train_local_path_to_data": str(folder / "data" / "train.jsonl"),
        "output_dir": str(folder / "outputs"),
        "fused_model_local_path": str(folder / "fused"),
        "quantized_model_path": str(folder / "quantized"),
        "quantization_max_samples": scale.num_calibration_samples,
        "dataset_key": "general",
        "path_to_env_file": None,
        "apply_lora": True,
        "use_gradient_checkpointing": False,
        "max_length": scale.max_length,
        "per_device_train_batch_size": scale.batch_size,
        "max_steps": scale.num_steps,
        "warmup_steps": 2,
        "learning_rate": 2e-3,
        "logging_steps": max(1, scale.num_steps // 8),
        "save_steps": scale.num_steps,
    }
    return build_config(defaults | values)


def make_inputs(scale: Scale, *, folder: Path) -> dict[str, Any]:
    """Writes a model of random weights, a tokenizer trained on the data, and the data."""
    rows = list(make_rows(scale))
    (folder / "data").mkdir(parents=True, exist_ok=True)
    lines = (json.dumps({"text": row}) + "\n" for row in rows)
    (folder / "data" / "train.jsonl").write_text("".join(lines))
    tokenizer = train_tokenizer(rows, vocab_size=scale.vocab_size)
    config = LlamaConfig(
        **scale.shape,
        vocab_size=scale.vocab_size,
        max_position_embeddings=4096,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return {"num_parameters": model.num_parameters(), "num_tokens_known": len(tokenizer)}


def make_rows(scale: Scale) -> Iterator[str]:
    """Texts of made-up words that follow each other by a rule, so that there is something to learn."""
    generator = random.Random(0)
    words = ["".join(generator.choices(SYLLABLES, k=generator.randint(1, 5))) for _ in range(scale.vocab_size)]
    for _ in range(scale.num_rows):
        position = generator.randrange(len(words))
        chosen = []
        for _ in range(scale.words_per_row):
            chosen.append(words[position])
            position = (position * 7 + generator.randrange(3)) % (len(words) // 16)
        yield " ".join(chosen)


def train_tokenizer(rows: list[str], *, vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with bos 0, eos 1 and pad 2."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(rows, trainer)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def describe_machine() -> dict[str, Any]:
    """Hardware and versions: a number without them says nothing."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "device": device,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions,
    }


if __name__ == "__main__":
    main()
