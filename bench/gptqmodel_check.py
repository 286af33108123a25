"""Holds GPTQ checkpoints that our converter wrote against gptqmodel's own loader, in an environment of its own.

python -m bench.gptqmodel_check make /tmp/gptq-folders          here: writes the folders and what they should give
python3.11 -m venv /tmp/gptqmodel-env
/tmp/gptqmodel-env/bin/pip install torch==2.13.0 transformers==5.17.0 setuptools accelerate safetensors datasets \
    threadpoolctl device-smi protobuf pillow requests pypcre tokenicer logbar ninja torchao defuser dill
BUILD_CUDA_EXT=0 /tmp/gptqmodel-env/bin/pip install --no-deps --no-build-isolation gptqmodel==7.7.0
/tmp/gptqmodel-env/bin/python bench/gptqmodel_check.py check /tmp/gptq-folders --out bench/results/gptqmodel.json

gptqmodel 7.7.0 declares torch >= 2.14.1 and transformers >= 5.20.2; its loader and its torch kernel run with those
above, hence --no-deps. Every dequantized weight must be equal bit for bit; logits are computed by both in 16 bits.
"""

import argparse
import importlib.metadata
import json
import platform
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

TOKENS = torch.arange(3, 35).unsqueeze(0)
MAX_LOGITS_DIFFERENCE = 0.01
PACKAGES = ("torch", "transformers", "gptqmodel", "safetensors")


def make(folder: Path) -> None:
    """Writes a folder for each kind of checkpoint, with the weights and the logits that our own loader gets from it."""
    from safetensors.torch import save_file

    from trainer_core.models.packed.gptq_files import convert_to_gptq_layout
    from trainer_core.models.packed.loading import find_packed_layers, load_packed_model

    shutil.rmtree(folder, ignore_errors=True)
    for path in (*_make_rounded(folder), _make_quantized(folder)):
        convert_to_gptq_layout(path)
        model, _ = load_packed_model(str(path), options={"dtype": torch.float16})
        weights = {name: layer.packed_weight.dequantize() for name, layer in find_packed_layers(model).items()}
        with torch.no_grad():
            logits = model(TOKENS).logits
        save_file({"logits": logits.contiguous()} | weights, path.with_suffix(".expected"))
        print(path.name, len(weights), "layers")


def _make_rounded(folder: Path) -> list[Path]:
    from tests.support.packed_models import Rounding, build_packed_llama

    kinds = {
        "4-bits-groups-of-32": Rounding(4, 32),
        "4-bits-groups-of-128": Rounding(4, 128),
        "4-bits-one-scale-a-row": Rounding(4, -1),
        "4-bits-zero-points": Rounding(4, 32, symmetric=False),
        "4-bits-act-order": Rounding(4, 32, by_activation=True),
        "4-bits-act-order-zero-points": Rounding(4, 32, symmetric=False, by_activation=True),
        "8-bits-groups-of-64": Rounding(8, 64),
        "8-bits-zero-points": Rounding(8, 64, symmetric=False),
        "3-bits-groups-of-32": Rounding(3, 32),
        "3-bits-zero-points": Rounding(3, 32, symmetric=False),
        "2-bits-groups-of-32": Rounding(2, 32),
    }
    paths = []
    for name, rounding in kinds.items():
        path = folder / name
        build_packed_llama(path, layout="compressed-tensors", rounding=rounding, dtype=torch.float16, num_shards=2)
        paths.append(path)
    return paths


def _make_quantized(folder: Path) -> Path:
    """By the step quantize, with layers that the group size does not divide."""
    from transformers import AutoModelForCausalLM

    from tests.support.tiny_models import build_tiny_llama, iterate_sentences
    from trainer_core.config import build_config
    from trainer_core.steps.quantize import quantize

    source = build_tiny_llama(folder / "source", intermediate_size=320)
    AutoModelForCausalLM.from_pretrained(source, dtype=torch.float16).save_pretrained(source)
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in iterate_sentences()))
    path = folder / "the-step-quantize"
    keys: dict[str, object] = {
        "model_name_or_path": str(source),
        "train_local_path_to_data": str(rows),
        "dataset_key": "general",
        "quantized_model_path": str(path),
        "quantization_format": "gptq",
        "quantization_max_samples": 128,
        "output_dir": str(folder / "outputs"),
    }
    quantize(build_config(keys))
    return path


def check(folder: Path, out: Path) -> bool:
    """Loads every folder with gptqmodel, compares, and writes what was found. Needs no package of ours."""
    from gptqmodel import BACKEND, GPTQModel  # type: ignore[import-not-found]
    from safetensors.torch import load_file

    found: list[dict[str, Any]] = []
    for expected_path in sorted(folder.glob("*.expected")):
        expected = load_file(expected_path)
        path = expected_path.with_suffix("")
        model = GPTQModel.load(str(path), backend=BACKEND.GPTQ_TORCH, device="cpu", dtype=torch.float16).model
        layers = {name: layer for name, layer in model.named_modules() if hasattr(layer, "dequantize_weight")}
        logits = expected.pop("logits")
        equal = [
            name
            for name, weight in expected.items()
            if name in layers and torch.equal(layers[name].dequantize_weight().to(weight.dtype).t(), weight)
        ]
        with torch.no_grad():
            difference = float((model(TOKENS).logits.float() - logits.float()).abs().max())
        found.append(
            {
                "checkpoint": path.name,
                "settings": json.loads((path / "quantize_config.json").read_text()),
                "num_layers": len(expected),
                "num_layers_gptqmodel_found": len(layers),
                "num_layers_equal_bit_for_bit": len(equal),
                "max_logits_difference": difference,
                "holds": len(equal) == len(expected) == len(layers) and difference <= MAX_LOGITS_DIFFERENCE,
            }
        )
    out.write_text(json.dumps({"machine": _describe_machine(), "checkpoints": found}, indent=1) + "\n")
    for entry in found:
        print({key: value for key, value in entry.items() if key != "settings"})
    return bool(found) and all(entry["holds"] for entry in found)


def _describe_machine() -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "device": "CPU",
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def main() -> None:
    """The command line; exits with 1 when a checkpoint does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("make", "check"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("gptqmodel.json"))
    arguments = parser.parse_args()
    if arguments.action == "make":
        make(arguments.folder)
    elif not check(arguments.folder, arguments.out):
        sys.exit(1)


if __name__ == "__main__":
    main()
