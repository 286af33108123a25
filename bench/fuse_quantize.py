"""Times fusing an adapter and quantizing by GPTQ against the libraries' own ways, each case in a process of its own.

python -m bench.fuse_quantize                  the shape of Llama-3.1-8B on one GPU, about 4 minutes, 48 GiB of disk
python -m bench.fuse_quantize --scale tiny     anywhere, about two minutes

`--only fuse-shards,gptq-ours` runs some of the cases, `--folder` names a folder for models (the fastest disk).
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from threading import Thread
from typing import Any

import torch

from bench.results_file import write_result
from bench.train_smoke import KeptEvents, describe_machine, train_tokenizer
from trainer_core.config import Config, build_config
from trainer_core.context import StepContext
from trainer_core.enums import Step

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Scale:
    """How large everything is."""

    shape: Mapping[str, int]
    max_shard_size: str
    num_samples: int
    num_tokens: int
    """Of each calibration sample."""
    num_gptq_layers: int = 4


LLAMA_8B = Scale(
    shape={
        "vocab_size": 128_256,
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    max_shard_size="5GB",
    num_samples=128,
    num_tokens=2048,
)
TINY = Scale(
    shape={
        "vocab_size": 1_000,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 8,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    max_shard_size="2MB",
    num_samples=16,
    num_tokens=64,
)
SCALES = {"llama-8b": LLAMA_8B, "tiny": TINY}


def main() -> None:
    """Runs the cases, prints what each showed and writes the result; ends with status 1 when a case fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=SCALES, default="llama-8b")
    parser.add_argument("--only", help="cases, separated by commas")
    parser.add_argument("--folder", type=Path, help="where models are written; default: a temporary folder")
    parser.add_argument("--out", type=Path, help="folder of the result file; default: bench/results")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(options.case, scale=SCALES[options.scale], folder=options.folder)))
        return
    folder = Path(tempfile.mkdtemp(prefix="fuse-quantize-", dir=options.folder))
    names = options.only.split(",") if options.only else list(CASES)
    try:
        cases = {name: run_case(name, scale=options.scale, folder=folder) for name in names}
        figures = {"machine": describe_machine(), "scale": options.scale, "cases": cases, **compare(cases, folder)}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    device = (figures["machine"]["device"] or "cpu").lower().replace("nvidia ", "").replace(" ", "-")
    setup = "random weights, base in page cache, each case in a process of its own; seconds without imports"
    where = {"folder": options.out} if options.out else {}
    print(write_result(f"fuse-quantize-{device}", figures, setup=setup, **where))
    print(json.dumps(figures["ratios"], indent=1))
    sys.exit(any("error" in case for case in cases.values()))


def run_case(name: str, *, scale: str, folder: Path) -> dict[str, Any]:
    """What a case's process printed last."""
    command = [sys.executable, "-m", "bench.fuse_quantize", "--case", name, "--scale", scale, "--folder", str(folder)]
    # What waits to be written from the case before would slow this one down.
    os.sync()
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wall_seconds = round(time.monotonic() - started, 1)
    shown = {"error": done.stderr[-2000:]} if done.returncode else json.loads(done.stdout.splitlines()[-1])
    print(name, {"process_seconds": wall_seconds, **shown}, flush=True)
    return {"process_seconds": wall_seconds, **shown}


def measure(name: str, *, scale: Scale, folder: Path) -> dict[str, Any]:
    """Runs one case in this process, and adds its peaks of memory."""
    shown = CASES[name](scale, folder)
    if _host_memory.most_bytes:
        shown["peak_host_gib"] = round((_host_memory.most_bytes - _host_memory.bytes_before) / GIB, 2)
    if torch.cuda.is_available():
        shown["peak_gpu_gib"] = round(torch.cuda.max_memory_allocated() / GIB, 2)
    return shown


class HostMemory:
    """Looks every 10 ms at how much memory this process has, mapped files included."""

    def __init__(self) -> None:
        self.bytes_before = self.most_bytes = 0

    def begin(self) -> None:
        """What there is now is not the work's: imports, mostly."""
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self.bytes_before = self.most_bytes = self.read()
        Thread(target=self._watch, daemon=True).start()

    def read(self) -> int:
        """Bytes now."""
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def _watch(self) -> None:
        while True:
            self.most_bytes = max(self.most_bytes, self.read())
            time.sleep(0.01)


_host_memory = HostMemory()


def make_models(scale: Scale, folder: Path) -> dict[str, Any]:
    """Writes a base, an adapter on it, a model of a few layers for GPTQ, and the tokenizer of all."""
    from peft import LoraConfig, get_peft_model

    started = time.monotonic()
    tokenizer = train_tokenizer(["a text"], vocab_size=300)
    for name, num_layers in (("base", scale.shape["num_hidden_layers"]), ("small", scale.num_gptq_layers)):
        model = build_llama(scale, num_layers=num_layers)
        model.save_pretrained(folder / name, max_shard_size=scale.max_shard_size)
        tokenizer.save_pretrained(folder / name)
        if name == "base":
            adapted: Any = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))
            for key, weight in adapted.named_parameters():
                if "lora_B" in key:
                    weight.data.normal_(std=0.01)
            adapted.save_pretrained(folder / "adapter")
        del model
    return {"seconds": round(time.monotonic() - started, 1), "base_bytes": count_bytes(folder / "base")}


def build_llama(scale: Scale, *, num_layers: int) -> Any:
    """Random bf16 weights, made on the GPU if there is one."""
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.initialization import no_init_weights

    settings: Any = dict(scale.shape) | {"num_hidden_layers": num_layers, "tie_word_embeddings": False}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device), no_init_weights():
        model = LlamaForCausalLM(LlamaConfig(**settings))
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)
    for weight in model.parameters():
        weight.data.normal_(std=0.02) if weight.ndim > 1 else weight.data.fill_(1)
    return model


def name_config(folder: Path, *, scale: Scale) -> Config:
    """The Config of the base and its adapter."""
    paths = {"model_name_or_path": "base", "lora_model_local_path": "adapter", "fused_model_local_path": "fused"}
    values: dict[str, object] = {key: str(folder / name) for key, name in paths.items()}
    values |= {"path_to_env_file": None, "max_shard_size": scale.max_shard_size, "output_dir": str(folder / "outputs")}
    values |= {"train_local_path_to_data": str(folder / "train.jsonl")}
    return build_config(values)


def fuse_whole_model(scale: Scale, folder: Path) -> dict[str, Any]:
    """The libraries' own way: the model is loaded, peft merges, transformers saves."""
    from trainer_core.models.fusing import fuse_adapter, save_fused_model

    config = name_config(folder, scale=scale)

    def fuse() -> None:
        model = fuse_adapter(config, adapter=folder / "adapter")
        path = Path(config.resolved_fused_path)
        save_fused_model(model, tokenizer=None, folder=path, max_shard_size=config.max_shard_size)

    return time_fuse(fuse, config=config)


def fuse_by_shards(scale: Scale, folder: Path) -> dict[str, Any]:
    """The step as jobs run it."""
    from trainer_core.steps.fuse import fuse

    config = name_config(folder, scale=scale)
    return time_fuse(lambda: fuse(config, context=StepContext(Step.FUSE, KeptEvents())), config=config)


def time_fuse(fuse: Callable[[], object], *, config: Config) -> dict[str, Any]:
    """Seconds until the call returns, and until the disk has it."""
    _host_memory.begin()
    started = time.monotonic()
    fuse()
    returned = time.monotonic()
    os.sync()
    synced = time.monotonic()
    folder = Path(config.resolved_fused_path)
    num_bytes = count_bytes(folder)
    shutil.rmtree(folder)
    seconds = {"seconds": round(returned - started, 2), "seconds_to_disk": round(synced - started, 2)}
    return {**seconds, "gib_per_second": round(num_bytes / GIB / (returned - started), 2)}


def count_bytes(folder: Path) -> int:
    """Of a model's weights."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def run_gptq_recipe(scale: Scale, folder: Path) -> dict[str, Any]:
    """llm-compressor's own recipe for W4A16, as its README gives it."""
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.gptq import GPTQModifier

    model, samples = load_small_model(folder), make_samples(scale)
    columns = {key: [sample[key][0].tolist() for sample in samples] for key in ("input_ids", "attention_mask")}
    clock = LayerClock(GPTQModifier)
    oneshot(
        model=model,
        dataset=Dataset.from_dict(columns),
        recipe=GPTQModifier(targets="Linear", scheme="W4A16", ignore=["lm_head"]),
        max_seq_length=scale.num_tokens,
        num_calibration_samples=scale.num_samples,
        shuffle_calibration_samples=False,
    )
    return finish_gptq(model, clock=clock, scale=scale, path=folder / "recipe.safetensors")


def run_gptq_ours(scale: Scale, folder: Path) -> dict[str, Any]:
    """The quantizer as the step quantize runs it."""
    from transformers import AutoTokenizer

    from trainer_core.quantizers import GPTQQuantizer
    from trainer_core.quantizers.calibration import CalibrationRows
    from trainer_core.quantizers.calibration_room import has_room_beside_model
    from trainer_core.quantizers.gptq_modifier import StrictGPTQModifier

    rows = CalibrationRows(folder / "rows.jsonl", None, are_prepared=False)
    context = StepContext(Step.QUANTIZE, KeptEvents())
    quantizer = GPTQQuantizer(name_config(folder, scale=scale), source=str(folder), rows=rows, context=context)
    quantizer.tokenizer = AutoTokenizer.from_pretrained(folder / "small")
    quantizer.model, quantizer.calibration = load_small_model(folder), make_samples(scale)
    quantizer.plan = quantizer.build_plan()
    clock = LayerClock(StrictGPTQModifier)
    if torch.cuda.is_available():
        # The step has it there, since it has measured its loss before.
        quantizer.model.to("cuda")
        if not (quantizer.works_on_gpu and has_room_beside_model()):
            quantizer.model.to("cpu")
    quantizer.quantize()
    shown = finish_gptq(quantizer.model, clock=clock, scale=scale, path=folder / "ours.safetensors")
    return {**shown, "hessian_errors": measure_hessian_errors()}


def load_small_model(folder: Path) -> Any:
    """On the CPU, as the recipe has it."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder / "small", dtype="auto")


def make_samples(scale: Scale) -> list[dict[str, torch.Tensor]]:
    """Random tokens, the same each time."""
    torch.manual_seed(1)
    tokens = torch.randint(0, scale.shape["vocab_size"], (scale.num_samples, scale.num_tokens))
    return [{"input_ids": row[None], "attention_mask": torch.ones_like(row[None])} for row in tokens]


class LayerClock:
    """Notes when each part of the model is done."""

    def __init__(self, modifier: Any) -> None:
        _host_memory.begin()
        self.started = time.monotonic()
        self.ends: list[float] = []
        finish = modifier.on_sequential_epoch_end

        def on_sequential_epoch_end(own: Any, state: Any, event: Any, modules: Any, **kwargs: Any) -> Any:
            result = finish(own, state, event, modules, **kwargs)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.ends.append(time.monotonic())
            return result

        # The library offers no other place between two layers.
        modifier.on_sequential_epoch_end = on_sequential_epoch_end


def finish_gptq(model: Any, *, clock: LayerClock, scale: Scale, path: Path) -> dict[str, Any]:
    """The times, and the weights of two layers kept for a comparison."""
    from safetensors.torch import save_file

    seconds = time.monotonic() - clock.started
    # The part before the first layer and the head's hold no layer; the first one's time holds what is done once.
    ends = clock.ends[-scale.num_gptq_layers - 1 : -1] if len(clock.ends) > scale.num_gptq_layers else clock.ends
    layers = [end - begin for begin, end in pairwise(ends)]
    first = model.get_submodule("model.layers.0")
    kept = {"q_proj": first.self_attn.q_proj, "down_proj": first.mlp.down_proj}
    save_file({name: layer.weight.detach().cpu().contiguous() for name, layer in kept.items()}, path)
    return {
        "seconds": round(seconds, 2),
        "seconds_a_layer": round(statistics.median(layers), 3),
        "seconds_a_layer_in_all": round(seconds / scale.num_gptq_layers, 3),
        "layers": [round(each, 3) for each in layers],
    }


def measure_hessian_errors() -> dict[str, float]:
    """Relative to fp64, of the statistics of 16,384 bf16 rows: ours, and cast to fp32 first as the library does."""
    from trainer_core.quantizers.hessian_sums import add_products

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(2)
    rows = (torch.randn(16_384, 512, device=device) * torch.logspace(-2, 1, 512, device=device)).bfloat16()
    exact = rows.double().T @ rows.double()
    ours = torch.zeros(512, 512, device=device)
    for part in rows.split(2048):
        add_products(ours, part)
    theirs = torch.zeros_like(ours)
    for part in rows.split(2048):
        scaled = 2**0.5 * part.float()
        theirs += scaled.T @ scaled / 2
    upper = torch.triu(torch.ones_like(exact))
    scale = exact.diagonal().sqrt()
    return {
        name: float((((found - exact) / scale / scale[:, None]) * upper).abs().max())
        for name, found in (("ours", ours.double()), ("fp32", theirs.double()))
    }


def compare(cases: Mapping[str, Mapping[str, Any]], folder: Path) -> dict[str, Any]:
    """Ours as parts of the libraries' own times, and how many weights GPTQ rounded the other way."""
    from safetensors.torch import load_file

    ratios: dict[str, float] = {}
    for name, (ours, theirs, key) in {
        "fuse": ("fuse-shards", "fuse-whole", "seconds"),
        "fuse_to_disk": ("fuse-shards", "fuse-whole", "seconds_to_disk"),
        "gptq_a_layer": ("gptq-ours", "gptq-recipe", "seconds_a_layer"),
        "gptq_in_all": ("gptq-ours", "gptq-recipe", "seconds"),
    }.items():
        if key in cases.get(ours, {}) and key in cases.get(theirs, {}):
            ratios[name] = round(cases[ours][key] / cases[theirs][key], 3)
    paths = [folder / f"{name}.safetensors" for name in ("ours", "recipe")]
    if not all(path.is_file() for path in paths):
        return {"ratios": ratios}
    ours, theirs = (load_file(path) for path in paths)
    differing = {name: float((ours[name] != theirs[name]).float().mean()) for name in ours}
    return {"ratios": ratios, "share_of_weights_that_differ": differing}


CASES: Mapping[str, Callable[[Scale, Path], dict[str, Any]]] = {
    "models": make_models,
    "fuse-whole": fuse_whole_model,
    "fuse-shards": fuse_by_shards,
    "gptq-recipe": run_gptq_recipe,
    "gptq-ours": run_gptq_ours,
}

if __name__ == "__main__":
    main()
