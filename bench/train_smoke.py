"""Runs the steps on a model of random weights, each part in its own process: does it work, how fast, how large.

python -m bench.train_smoke --out bench/results/train-smoke.json      1.1 B on a GPU, about 4 minutes, no network
python -m bench.train_smoke --scale mistral-7b --out …                the shape of Mistral-7B, about 15 minutes
python -m bench.train_smoke --scale tiny                              anywhere, about a minute

`--parts lora,fuse` runs some of the parts; with `--folder` what earlier ones made is used.
"""

import argparse
import importlib.metadata
import json
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from trainer_core.config import Config, build_config
from trainer_core.context import StepContext
from trainer_core.enums import Step

PACKAGES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "llmcompressor", "compressed-tensors")
SYLLABLES = [consonant + vowel for consonant in "bcdfghjklmnprstvwz" for vowel in "aeiou"]


@dataclass(frozen=True, slots=True)
class Scale:
    """How large everything is."""

    model_type: str
    shape: Mapping[str, int]
    vocab_size: int
    num_rows: int
    words_per_row: int
    max_length: int
    batch_size: int
    num_steps: int
    num_calibration_samples: int
    learning_rate: float
    min_loss_drop: float
    """What the loss must fall by, in nats per token, for the training to count as one."""


LLAMA_1B = Scale(
    model_type="llama",
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
    learning_rate=2e-3,
    min_loss_drop=0.3,
)
MISTRAL_7B = Scale(
    model_type="mistral",
    shape={
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    vocab_size=32_000,
    num_rows=256,
    words_per_row=900,
    max_length=1024,
    batch_size=8,
    num_steps=16,
    num_calibration_samples=64,
    learning_rate=1e-3,
    min_loss_drop=0.05,
)
TINY = Scale(
    model_type="llama",
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
    learning_rate=2e-3,
    min_loss_drop=0.05,
)
SCALES = {"llama-1b": LLAMA_1B, "mistral-7b": MISTRAL_7B, "tiny": TINY}


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
    peak_gpu_gib: float | None = None
    peak_host_gib: float | None = None
    """Memory of the process itself, mapped files left out."""
    first_loss: float | None = None
    last_loss: float | None = None
    tokens_per_second: float | None = None
    seconds_per_step: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def main() -> None:
    """Runs the parts; ends with an error when one fails or a loss does not fall."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=sorted(SCALES), default="llama-1b")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"default: {','.join(PARTS)}")
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    parser.add_argument("--folder", type=Path, help="folder to work in, kept; default: a temporary one, deleted")
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    scale, names = SCALES[options.scale], options.parts.split(",")
    if options.in_process:
        options.out.write_text(json.dumps(asdict(measure(names[0], scale, folder=options.folder)), default=str))
        return
    folder = options.folder or Path(tempfile.mkdtemp(prefix="train-smoke-"))
    result: dict[str, Any] = {"machine": describe_machine(), "scale": asdict(scale), "parts": []}
    try:
        for name in names:
            result["parts"].append(run_part(name, scale=options.scale, folder=folder))
            # Written each time: a run that is cut short keeps what it has measured.
            write_result(result, options.out)
    finally:
        if options.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    check_losses(result["parts"], scale)


def write_result(result: Mapping[str, Any], path: Path | None) -> None:
    """Writes what there is so far; without a path it is printed part by part alone."""
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1, default=str) + "\n")


def run_part(name: str, *, scale: str, folder: Path) -> dict[str, Any]:
    """Runs one part in a process of its own, so that its memory is its own too."""
    print(f"{name} …", flush=True)
    out = folder / f"{name}.json"
    command = [sys.executable, "-m", __spec__.name, "--in-process", "--scale", scale, "--parts", name]
    subprocess.run([*command, "--folder", str(folder), "--out", str(out)], check=True)
    part: dict[str, Any] = json.loads(out.read_text())
    print(json.dumps(part), flush=True)
    return part


def check_losses(parts: list[dict[str, Any]], scale: Scale) -> None:
    """Ends the run where a training did not train."""
    for part in parts:
        if part["first_loss"] is not None:
            fell_by = part["first_loss"] - part["last_loss"]
            if not fell_by >= scale.min_loss_drop:
                raise SystemExit(f"{part['name']}: the loss fell by {fell_by:.3f}, less than {scale.min_loss_drop}")


def run_lora(scale: Scale, folder: Path, events: KeptEvents) -> dict[str, Any]:
    """LoRA over the base in bf16."""
    return run_training(make_config(scale, folder=folder), events)


def run_qlora4(scale: Scale, folder: Path, events: KeptEvents) -> dict[str, Any]:
    """LoRA over the base in 4 bits."""
    return run_training(make_config(scale, folder=folder, load_in_4bit=True, output_dir=str(folder / "qlora4")), events)


def run_qlora8(scale: Scale, folder: Path, events: KeptEvents) -> dict[str, Any]:
    """LoRA over the base in 8 bits."""
    return run_training(make_config(scale, folder=folder, load_in_8bit=True, output_dir=str(folder / "qlora8")), events)


def run_training(config: Config, events: KeptEvents) -> dict[str, Any]:
    """The step train, and what it takes before."""
    from trainer_core.steps.prepare import prepare
    from trainer_core.steps.train import train

    prepare(config, context=StepContext(Step.PREPARE, events))
    return dict(train(config, context=StepContext(Step.TRAIN, events)).result.facts)


def run_fuse(scale: Scale, folder: Path, events: KeptEvents) -> dict[str, Any]:
    """The step fuse, on what `lora` made."""
    from trainer_core.steps.fuse import fuse

    facts = dict(fuse(make_config(scale, folder=folder), context=StepContext(Step.FUSE, events)).facts)
    return facts | {"weight_bytes": sum(path.stat().st_size for path in (folder / "fused").glob("*.safetensors"))}


def run_quantize(scale: Scale, folder: Path, events: KeptEvents) -> dict[str, Any]:
    """The step quantize, on what `fuse` made, else on the base."""
    return run_quantizer("gptq", scale, folder)


def run_quantizer(key: str, scale: Scale, folder: Path) -> dict[str, Any]:
    """The step quantize by one of the quantizers."""
    from trainer_core.steps.quantize import quantize

    path = folder / ("quantized" if key == "gptq" else key)
    config = make_config(scale, folder=folder, quantizer_key=key, quantized_model_path=str(path))
    facts = dict(quantize(config).facts)
    return facts | {"size_ratio": round(facts["weight_bytes_after"] / facts["weight_bytes_before"], 4)}


def run_packed(scale: Scale, folder: Path, events: KeptEvents) -> dict[str, Any]:
    """LoRA over the packed integers of what `quantize` made."""
    values = {"model_name_or_path": str(folder / "quantized"), "output_dir": str(folder / "packed")}
    return run_training(make_config(scale, folder=folder, from_gptq=True, **values), events)


def measure(name: str, scale: Scale, *, folder: Path) -> Part:
    """Runs a part here and takes its time, its peaks of memory and what its metrics say."""
    events = KeptEvents()
    with HostMemory() as memory:
        started_at = time.monotonic()
        part = Part(name, facts=PARTS[name](scale, folder, events))
        part.seconds = round(time.monotonic() - started_at, 2)
    part.peak_host_gib = round(memory.peak_bytes / 2**30, 3)
    if torch.cuda.is_available():
        part.peak_gpu_gib = round(torch.cuda.max_memory_allocated() / 2**30, 3)
    # The first record is of one step, with all that is done for the first time.
    records = [each for each in events.metrics if each.get("tokens_per_second")][1:]
    if records:
        part.first_loss, part.last_loss = events.metrics[0]["loss"], events.metrics[-1]["loss"]
        rates = [each["tokens_per_second"] for each in records]
        part.tokens_per_second = round(len(rates) / sum(1 / rate for rate in rates), 1)
        tokens_per_step = part.facts["num_tokens"] / part.facts["global_step"]
        part.seconds_per_step = round(tokens_per_step / part.tokens_per_second, 4)
    return part


class HostMemory:
    """Watches this process's anonymous memory, every 20 ms."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "HostMemory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            status = Path("/proc/self/status").read_text()
            kib = next(line.split()[1] for line in status.splitlines() if line.startswith("RssAnon"))
            self.peak_bytes = max(self.peak_bytes, int(kib) * 1024)


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
        "learning_rate": scale.learning_rate,
        "logging_steps": max(1, scale.num_steps // 8),
        "save_steps": scale.num_steps,
    }
    return build_config(defaults | values)


def make_inputs(scale: Scale, folder: Path, _events: KeptEvents) -> dict[str, Any]:
    """Writes a model of random weights, a tokenizer trained on the data, and the data."""
    rows = list(make_rows(scale))
    (folder / "data").mkdir(parents=True, exist_ok=True)
    lines = (json.dumps({"text": row}) + "\n" for row in rows)
    (folder / "data" / "train.jsonl").write_text("".join(lines))
    tokenizer = train_tokenizer(rows, vocab_size=scale.vocab_size)
    config = AutoConfig.for_model(
        scale.model_type,
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
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder / "model", max_shard_size="5GB")
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


PARTS: Mapping[str, Callable[[Scale, Path, KeptEvents], dict[str, Any]]] = {
    "model": make_inputs,
    "lora": run_lora,
    "qlora4": run_qlora4,
    "qlora8": run_qlora8,
    "fuse": run_fuse,
    "quantize": run_quantize,
    "packed": run_packed,
    "awq": lambda scale, folder, _events: run_quantizer("awq", scale, folder),
    "fp8": lambda scale, folder, _events: run_quantizer("fp8", scale, folder),
    "w8a8": lambda scale, folder, _events: run_quantizer("w8a8", scale, folder),
    "bnb": lambda scale, folder, _events: run_quantizer("bnb", scale, folder),
}


if __name__ == "__main__":
    main()
