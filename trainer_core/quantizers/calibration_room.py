"""How much of the calibration the GPU's memory holds at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from trainer_core.types import Batch

MAX_TOKENS = 16_384
"""Tokens of a batch on a GPU; beyond, its matrix products are no faster."""
MAX_TOKENS_ON_CPU = 2_048
BATCH_SHARE = 0.25
"""Of the GPU's free memory, for a batch's activations in one layer. The rest is for statistics and their inverses."""
CACHE_SHARE = 0.35
"""Of the GPU's free memory, for all samples' activations between two layers."""
_FP32_BYTES = 4


@dataclass(frozen=True, slots=True)
class CalibrationRoom:
    """What one batch may take, by the shape of the model."""

    max_tokens: int
    max_bytes: float
    bytes_per_token: int
    """Of the widest activations in a layer."""
    bytes_per_pair: int
    """Of attention scores, for each pair of a sample's tokens: llm-compressor calibrates with eager attention."""

    def fits(self, *, num_samples: int, length: int) -> bool:
        """Whether a batch of this shape is within the limits."""
        num_bytes = num_samples * length * (self.bytes_per_token + length * self.bytes_per_pair)
        return num_samples * length <= self.max_tokens and num_bytes <= self.max_bytes


def measure_room(model: "PreTrainedModel") -> CalibrationRoom:
    """What is free now on the GPU that calibrates, or a modest number of tokens on a CPU."""
    import torch

    settings = model.config.get_text_config()
    itemsize = model.dtype.itemsize
    hidden = int(settings.hidden_size)
    inner = int(getattr(settings, "intermediate_size", None) or 4 * hidden)
    heads = int(getattr(settings, "num_attention_heads", 1))
    # Norms, queries, keys, values and the residual; gate, up and their product, with what is cast on the way.
    per_token = (8 * hidden + 4 * inner) * itemsize
    # Scores, with the mask, as probabilities in fp32, and cast back.
    per_pair = heads * (3 * itemsize + _FP32_BYTES)
    if not torch.cuda.is_available():
        return CalibrationRoom(MAX_TOKENS_ON_CPU, float("inf"), per_token, per_pair)
    return CalibrationRoom(MAX_TOKENS, BATCH_SHARE * get_free_bytes(), per_token, per_pair)


def choose_cache_device(model: "PreTrainedModel", samples: "Sequence[Batch]") -> str:
    """Where activations lie between two layers: on the GPU if it holds those of all samples, else in host memory."""
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    lengths = [int(sample["input_ids"].shape[1]) for sample in samples]
    hidden = int(model.config.get_text_config().hidden_size)
    # Each sample's hidden states before and after a layer and its position embeddings, and an eager attention's mask.
    needed = sum(length * (3 * hidden + length) for length in lengths) * model.dtype.itemsize
    return "cuda:0" if needed <= CACHE_SHARE * get_free_bytes() else "cpu"


def has_room_beside_model() -> bool:
    """Whether a model that lies on the GPU now may stay there while it is quantized."""
    import torch

    _, total = torch.cuda.mem_get_info()
    return get_free_bytes() >= total / 2


def get_free_bytes() -> int:
    """Of the GPU, what torch holds without using it included."""
    import torch

    free, _ = torch.cuda.mem_get_info()
    return int(free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated())
