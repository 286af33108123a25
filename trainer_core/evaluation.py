"""How well a model predicts given rows: mean negative log-likelihood of the supervised tokens."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from trainer_core.errors import DataError
from trainer_core.models.loading import LoadingChoices, load_model
from trainer_core.rendering import choose_components, render_batches
from trainer_core.tokenizers.loading import load_source_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from trainer_core.config import Config
    from trainer_core.types import Batch

IGNORED_LABEL = -100


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """The loss over some rows."""

    loss: float
    """Nats per supervised token: every token weighs the same, whatever its row."""
    num_tokens: int
    """Supervised tokens."""
    num_rows: int


def evaluate_loss(
    model_path: str | Path, rows_path: str | Path, config: "Config", *, adapter_path: str | Path | None = None
) -> EvaluationResult:
    """The loss of a model, with a LoRA adapter on if one is given, on a JSON Lines file.

    Rows are rendered by the Config's data set and collator (left at their defaults: by those that fit the first row)
    and cut at `max_length`, in batches of `per_device_eval_batch_size`. Loads the model on the GPU if there is one.
    Raises ModelLoadError, DataError.
    """
    model = load_for_inference(model_path, config, adapter_path=adapter_path)
    tokenizer = load_source_tokenizer(str(model_path), config=config)
    batch_size = config.per_device_eval_batch_size or config.per_device_train_batch_size
    chosen = choose_components(config, Path(rows_path))
    batches = render_batches(Path(rows_path), config=chosen, tokenizer=tokenizer, batch_size=batch_size)
    return measure_loss(model, batches)


def load_for_inference(
    model_path: str | Path, config: "Config", *, adapter_path: str | Path | None = None
) -> "PreTrainedModel":
    """A model in the precision it was saved in, in evaluation mode, on the GPU if there is one."""
    choices = LoadingChoices(dtype="auto", device_map="cuda:0" if torch.cuda.is_available() else None)
    model: Any = load_model(config, choices=choices, name=str(model_path))
    if adapter_path is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(adapter_path))
    model.train(False)
    loaded: PreTrainedModel = model
    return loaded


def measure_loss(model: "PreTrainedModel", batches: "Iterable[Batch]") -> EvaluationResult:
    """The loss over batches whose labels are −100 where nothing is predicted; the shift by one happens here.

    The model is left as it is; a cache is not used, since it changes the losses of packed rows. Raises DataError when
    no token is supervised.
    """
    total, num_tokens, num_rows = 0.0, 0, 0
    for batch in batches:
        batch_total, batch_tokens = _sum_losses(model, batch)
        total += batch_total
        num_tokens += batch_tokens
        num_rows += batch["input_ids"].shape[0]
    if num_tokens == 0:
        raise DataError("no row has a token to learn from: nothing can be evaluated")
    return EvaluationResult(loss=total / num_tokens, num_tokens=num_tokens, num_rows=num_rows)


@torch.no_grad()
def _sum_losses(model: "PreTrainedModel", batch: "Batch") -> tuple[float, int]:
    # Shapes: B rows, L tokens, V words. no_grad and not inference_mode: layers of llm-compressor refuse the latter.
    device = model.device
    inputs = {name: value.to(device) for name, value in batch.items() if name != "labels"}
    targets_BL = batch["labels"][:, 1:].to(device)
    logits_BLV = model(**inputs, use_cache=False).logits[:, :-1]
    kept_BL = targets_BL != IGNORED_LABEL
    losses = torch.nn.functional.cross_entropy(logits_BLV[kept_BL].float(), targets_BL[kept_BL], reduction="sum")
    return float(losses), int(kept_BL.sum())
