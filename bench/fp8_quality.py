"""Shows what `fp8_base` costs in quality: LoRA over a base in 8-bit floating point against LoRA over bf16.

python -m bench.fp8_quality                  on a GPU of compute capability 8.9 or more, about two minutes
python -m bench.fp8_quality --scale tiny     anywhere, about a minute; without such a GPU fp8 is left out

Nothing is downloaded: a Llama is trained from nothing on the sources of Python's standard library, then fine-tuned on
packages that were kept back, with LoRA. Every adapter is judged over the plain base in bf16, over which it is fused and
served, by the mean loss per token of files that no run has seen. Status 1: fp8 costs more than 0.02 nats per token.
"""

import argparse
import json
import math
import os
import statistics
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from bench.results_file import FOLDER, write_result
from bench.train_smoke import KeptEvents, describe_machine, train_tokenizer
from trainer_core.config import build_config
from trainer_core.context import StepContext
from trainer_core.enums import Step
from trainer_core.steps.train import train

MAX_DIFFERENCE = 0.02
"""Nats per token by which an adapter trained over fp8 may be worse than its twin over bf16."""
MAX_LENGTH = 1024
NUM_CHARACTERS = 3000
"""Of a sample at most: less than MAX_LENGTH tokens but for tables of numbers."""
FEWEST_CHARACTERS = 64
SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "encodings", "__pycache__"}
"""What some installations lack, and tables of character sets."""
TUNING_PACKAGES = {
    *("asyncio", "concurrent", "ctypes", "email", "http", "logging", "multiprocessing", "unittest", "urllib"),
    *("wsgiref", "xml", "xmlrpc"),
}
"""Kept back from the base's training: much of networks, concurrency and formats of documents."""
HELD_OUT = 6
"""One in so many files of these packages is for evaluation."""
SEEDS = (1, 2)
SETUP = (
    "a Llama trained from nothing on the standard library's sources without tests; LoRA r=16 on packages kept back "
    "from it; eval_loss: mean nats per token of held-out files of these, adapter over the plain base; another seed: "
    "another order of samples and another start of the adapter"
)


@dataclass(frozen=True, slots=True)
class Scale:
    """How large everything is."""

    sizes: tuple[int, ...]
    """In the order of SIZES."""
    tokens_per_batch: int
    num_base_steps: int
    num_tuning_steps: int
    eval_steps: int
    most_samples: int | None = None
    """Of each part of the text; None: all."""

    @property
    def shape(self) -> dict[str, int]:
        """The Llama's, by transformers' names."""
        return dict(zip(SIZES, self.sizes, strict=True))


SIZES = (
    *("vocab_size", "hidden_size", "intermediate_size"),
    *("num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
)
GPU = Scale((8192, 1024, 2816, 12, 16, 4), 16_384, num_base_steps=300, num_tuning_steps=150, eval_steps=50)
TINY = Scale((1024, 64, 128, 2, 4, 2), 4096, num_base_steps=20, num_tuning_steps=10, eval_steps=5, most_samples=100)
SCALES = {"gpu": GPU, "tiny": TINY}


@dataclass(frozen=True, slots=True)
class Run:
    """What one training showed. Losses in nats per token."""

    name: str
    eval_loss: float
    """On the held-out files, computed plainly: of the base itself, or of the adapter over it."""
    own_eval_losses: Mapping[int, float]
    """As the training itself evaluates, by step: over the base as it has it, and a mean of batches' means."""
    train_loss: float
    """Of the last steps."""
    tokens_per_second: float
    seconds: float
    """Of the training with all that it loads and compiles."""


def main() -> int:
    """Trains, prints a table and writes the result; 1 when fp8 is worse by more than MAX_DIFFERENCE."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=SCALES, default="gpu" if torch.cuda.is_available() else "tiny")
    parser.add_argument("--folder", type=Path, help="where models are written; default: a temporary folder")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the result file")
    options = parser.parse_args()
    scale, machine = SCALES[options.scale], describe_machine()
    with tempfile.TemporaryDirectory(prefix="fp8-quality-", dir=options.folder) as folder:
        text = write_text(scale, Path(folder))
        runs = run_all(scale, Path(folder))
    print_table(runs)
    differences = compare(runs)
    print(json.dumps(differences, indent=1))
    figures = {"machine": machine, "scale": options.scale, "text": text, "runs": [asdict(run) for run in runs]}
    gpu = (machine["device"] or "").lower().replace("nvidia", "").split()
    name = f"fp8-quality-{gpu[0] if gpu else f'cpu{os.cpu_count()}'}"
    print(write_result(name, figures | {"differences": differences}, setup=SETUP, folder=options.out))
    # Not a number is no success either.
    return int(not all(value <= MAX_DIFFERENCE for name, value in differences.items() if name.startswith("fp8")))


def write_text(scale: Scale, folder: Path) -> dict[str, int]:
    """Writes the samples of each part into `<part>.jsonl`, and tells how many there are."""
    counts: dict[str, int] = {}
    for part, paths in split_sources(Path(sysconfig.get_paths()["stdlib"])).items():
        samples = [sample for path in paths for sample in cut_source(path.read_text("utf-8", errors="ignore"))]
        # Of all files some, not of some files all.
        chosen = samples[:: -(-len(samples) // (scale.most_samples or len(samples)))]
        (folder / f"{part}.jsonl").write_text("".join(json.dumps({"text": sample}) + "\n" for sample in chosen))
        counts |= {f"{part}_files": len(paths), f"{part}_samples": len(chosen)}
    print(counts, flush=True)
    return counts


def split_sources(root: Path) -> dict[str, list[Path]]:
    """The files to train the base on, to fine-tune it on, and to judge it by; the same on each call."""
    parts: dict[str, list[Path]] = {"base": [], "tuning": []}
    for path in sorted(root.rglob("*.py")):
        names = path.relative_to(root).parts
        if not SKIPPED_FOLDERS.intersection(names):
            parts["tuning" if names[0] in TUNING_PACKAGES else "base"].append(path)
    held_out = parts["tuning"][::HELD_OUT]
    return {**parts, "tuning": [path for path in parts["tuning"] if path not in held_out], "held_out": held_out}


def cut_source(text: str) -> Iterator[str]:
    """Whole lines of at most NUM_CHARACTERS together; what is left in the end is dropped when it is next to nothing."""
    sample = ""
    for line in text.splitlines(keepends=True):
        if sample and len(sample) + len(line) > NUM_CHARACTERS:
            yield sample
            sample = ""
        sample += line
    if len(sample.strip()) >= FEWEST_CHARACTERS:
        yield sample


def read_samples(path: Path) -> list[str]:
    """The texts of a file that `write_text` wrote."""
    return [json.loads(line)["text"] for line in path.read_text().splitlines()]


def run_all(scale: Scale, folder: Path) -> list[Run]:
    """The base's own training first, then one of each adapter on it."""
    write_random_model(scale, folder)
    runs = [run_base(scale, folder)]
    runs += [run_tuning(f"bf16 seed {seed}", scale, folder, {"seed": seed}) for seed in SEEDS]
    if not has_fp8_device():
        print("fp8 is left out: it needs a GPU of compute capability 8.9 or more", flush=True)
        return runs
    return runs + [run_tuning(f"fp8 seed {seed}", scale, folder, {"seed": seed, "fp8_base": True}) for seed in SEEDS]


def has_fp8_device() -> bool:
    """Whether `fp8_base` works here."""
    return torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 9)


def write_random_model(scale: Scale, folder: Path) -> None:
    """What the base's training begins with: weights without sense, and a tokenizer of its text."""
    tokenizer: Any = train_tokenizer(read_samples(folder / "base.jsonl"), vocab_size=scale.shape["vocab_size"])
    tokenizer.save_pretrained(folder / "random")
    settings: Any = {**scale.shape, "max_position_embeddings": MAX_LENGTH, "tie_word_embeddings": False}
    settings |= {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    model_cls: Any = AutoModelForCausalLM
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = model_cls.from_config(LlamaConfig(**settings), dtype=torch.bfloat16)
    model.save_pretrained(folder / "random")


def run_base(scale: Scale, folder: Path) -> Run:
    """Trains all weights from nothing."""
    values: dict[str, object] = {
        "model_name_or_path": str(folder / "random"),
        "train_local_path_to_data": str(folder / "base.jsonl"),
        "output_dir": str(folder / "base"),
        "max_steps": scale.num_base_steps,
        "learning_rate": 1e-3,
        # With 0.999, what a step adds to the mean of squares, which is in bf16 too, would be lost by rounding.
        "adam_beta2": 0.95,
        "weight_decay": 0.1,
    }
    return Run("base", **train_once("base", scale, values), eval_loss=measure_loss(folder))


def run_tuning(name: str, scale: Scale, folder: Path, values: Mapping[str, object]) -> Run:
    """Trains an adapter over the base."""
    defaults: dict[str, object] = {
        "model_name_or_path": str(folder / "base"),
        "train_local_path_to_data": str(folder / "tuning.jsonl"),
        "eval_local_path_to_data": str(folder / "held_out.jsonl"),
        "output_dir": str(folder / name),
        "max_steps": scale.num_tuning_steps,
        "learning_rate": 1e-3,
        **{"apply_lora": True, "lora_rank": 16, "lora_dropout": 0.0},
    }
    shown = train_once(name, scale, {**defaults, **values})
    return Run(name, **shown, eval_loss=measure_loss(folder, adapter=folder / name))


def train_once(name: str, scale: Scale, values: Mapping[str, object]) -> dict[str, Any]:
    """Runs the step train; what a Run says of it."""
    print(f"{name} …", flush=True)
    num_steps = int(str(values["max_steps"]))
    defaults: dict[str, object] = {
        **{"path_to_env_file": None, "dataset_key": "general", "collator_key": "lm", "max_length": MAX_LENGTH},
        **{"packing": "on", "tokens_per_batch": scale.tokens_per_batch},
        # As many samples as surely fit into one row.
        "per_device_eval_batch_size": scale.tokens_per_batch // MAX_LENGTH,
        "eval_steps": scale.eval_steps,
        "warmup_steps": num_steps // 10,
        "lr_scheduler_type": "cosine",
        "optim": "adamw_torch_fused",
        "logging_steps": max(1, num_steps // 15),
        # Only the checkpoint of the end.
        "save_steps": num_steps,
        # Liger changes transformers' classes for all runs that follow in this process.
        "use_liger_kernel": "off",
    }
    events = KeptEvents()
    started = time.monotonic()
    trainer = train(build_config({**defaults, **values}), context=StepContext(Step.TRAIN, events)).trainer
    assert trainer is not None
    history = trainer.state.log_history
    # The first record is of one step, with all that is done for the first time.
    rates = [each["tokens_per_second"] for each in events.metrics[1:] if each.get("tokens_per_second")]
    return {
        "own_eval_losses": {each["step"]: round(each["eval_loss"], 4) for each in history if "eval_loss" in each},
        "train_loss": round(events.metrics[-1]["loss"], 4),
        "tokens_per_second": round(statistics.median(rates), 1),
        "seconds": round(time.monotonic() - started, 1),
    }


@torch.no_grad()
def measure_loss(folder: Path, *, adapter: Path | None = None) -> float:
    """Mean nats per token of the held-out samples, one after the other, as transformers and peft load and run the base
    and an adapter on it. bf16 on a GPU, fp32 on the CPU."""
    device, dtype = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder / "base")
    model: Any = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=dtype)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    model.to(device).eval()
    total, num_tokens = 0.0, 0
    for sample in read_samples(folder / "held_out.jsonl"):
        ids_1L = torch.tensor([tokenizer(sample)["input_ids"][:MAX_LENGTH]], device=device)
        logits_LV = model(input_ids=ids_1L, use_cache=False).logits[0, :-1].float()
        total += float(functional.cross_entropy(logits_LV, ids_1L[0, 1:], reduction="sum"))
        num_tokens += ids_1L.shape[1] - 1
    return round(total / num_tokens, 5)


def compare(runs: list[Run]) -> dict[str, float]:
    """Differences of eval losses over the plain base: fp8 and bf16 by seed, the noise between two seeds, the gain."""
    losses = {run.name: run.eval_loss for run in runs}
    pairs = [(f"fp8 seed {seed}", f"bf16 seed {seed}") for seed in SEEDS if f"fp8 seed {seed}" in losses]
    pairs += [("bf16 seed 2", "bf16 seed 1"), ("bf16 seed 1", "base")]
    return {f"{one} - {other}": round(losses[one] - losses[other], 5) for one, other in pairs}


def print_table(runs: list[Run]) -> None:
    """One line a run."""
    columns = ("eval loss", "own eval", "own train", "tokens/s", "seconds")
    print(f"{'':<14}" + "".join(f"{column:>12}" for column in columns))
    for run in runs:
        own = list(run.own_eval_losses.values())[-1] if run.own_eval_losses else math.nan
        losses = f"{run.eval_loss:>12.4f}{own:>12.4f}{run.train_loss:>12.4f}"
        print(f"{run.name:<14}{losses}{run.tokens_per_second:>12,.0f}{run.seconds:>12.1f}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
