"""The check of a quantized model: loaded by a fresh process, it must give a finite loss.

`python -m trainer_core.quantizers.verification MODEL ROWS RESULT` is that process; it knows no plugin, and gets the
rows as tokens.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trainer_core.environment_file import TOKEN_VARIABLES
from trainer_core.errors import QuantizationError
from trainer_core.evaluation import EvaluationResult, measure_loss

if TYPE_CHECKING:
    from trainer_core.types import Batch

MAX_OUTPUT_CHARACTERS = 2000


def measure_in_fresh_process(
    folder: Path, batches: "Sequence[Batch]", *, trust_remote_code: bool = False
) -> EvaluationResult:
    """The loss of the model in `folder`. Raises QuantizationError if it cannot be loaded or the loss is not finite."""
    with tempfile.TemporaryDirectory(prefix="finesmith-verification-") as scratch:
        rows, result = Path(scratch, "rows.safetensors"), Path(scratch, "result.json")
        _write_batches(rows, batches)
        command = [sys.executable, "-m", __spec__.name, str(folder), str(rows), str(result)]
        command += ["--trust-remote-code"] if trust_remote_code else []
        finished = subprocess.run(
            command, env=_environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if finished.returncode != 0 or not result.is_file():
            output = (finished.stderr or finished.stdout)[-MAX_OUTPUT_CHARACTERS:].strip()
            message = f"the quantized model cannot be loaded again (exit status {finished.returncode}): {output}"
            raise QuantizationError(message)
        measured = EvaluationResult(**json.loads(result.read_text()))
    if not math.isfinite(measured.loss):
        raise QuantizationError(f"the quantized model gives a loss of {measured.loss}; it is of no use")
    return measured


def _environment() -> dict[str, str]:
    """This process's environment without tokens, with this package importable whatever the current folder is."""
    secret = {name for names in TOKEN_VARIABLES.values() for name in names}
    environment = {name: value for name, value in os.environ.items() if name not in secret}
    root = str(Path(__file__).resolve().parents[2])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, environment.get("PYTHONPATH")]))
    # The folder is local and whole: a look at the Hub could only hang.
    environment["HF_HUB_OFFLINE"] = "1"
    return environment


def _write_batches(path: Path, batches: "Sequence[Batch]") -> None:
    from safetensors.torch import save_file

    tensors = {f"{index}/{name}": value for index, batch in enumerate(batches) for name, value in batch.items()}
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, path)


def _read_batches(path: Path) -> "list[Batch]":
    from safetensors.torch import load_file

    batches: dict[int, Batch] = {}
    for key, tensor in load_file(path).items():
        index, _, name = key.partition("/")
        batches.setdefault(int(index), {})[name] = tensor
    return [batches[index] for index in sorted(batches)]


def main(arguments: Sequence[str]) -> None:
    """Loads the model as its users will, measures, writes the result as JSON."""
    import torch
    from transformers import AutoTokenizer

    from trainer_core.quantizers.loading import load_quantized_model

    folder, rows, result = (Path(argument) for argument in arguments[:3])
    trust_remote_code = "--trust-remote-code" in arguments
    AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    model = load_quantized_model(
        folder, device_map="cuda:0" if torch.cuda.is_available() else None, trust_remote_code=trust_remote_code
    )
    measured = measure_loss(model, _read_batches(rows))
    result.write_text(
        json.dumps({"loss": measured.loss, "num_tokens": measured.num_tokens, "num_rows": measured.num_rows})
    )


if __name__ == "__main__":
    main(sys.argv[1:])
