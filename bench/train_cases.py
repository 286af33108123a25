"""What is trained in the comparison: shapes of models, lengths of samples, and the Config of each case."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MAX_LENGTH = 2048
SHAPES: dict[str, dict[str, int]] = {
    "8b": {
        **{"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32},
        **{"num_key_value_heads": 8, "vocab_size": 128256},
    },
    "1b": {
        **{"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32},
        **{"num_key_value_heads": 8, "vocab_size": 128256},
    },
    "tiny": {
        **{"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4, "num_attention_heads": 4},
        **{"num_key_value_heads": 2, "vocab_size": 4096},
    },
}
"""Llama 3.1 with 8 B parameters, Llama 3.2 with 1 B, and one for a CPU."""


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to train."""

    shape: str
    config: dict[str, Any] = field(default_factory=dict)
    """Beside the keys that all cases share."""
    batch_size: int = 8
    """Samples in a pass of the systems that count samples."""
    num_warmup_steps: int = 6
    num_steps: int = 4
    """Steps in each of the windows that are timed."""
    num_windows: int = 3
    length: int | None = None
    """Tokens of every sample; None: lengths as in chat data."""

    @property
    def max_length(self) -> int:
        """No sample has more tokens."""
        return MAX_LENGTH if self.length is None else self.length

    @property
    def has_lora(self) -> bool:
        """Whether an adapter is trained."""
        return bool(self.config.get("apply_lora"))

    @property
    def checkpoints(self) -> bool:
        """Whether activations are computed again in the backward pass."""
        return bool(self.config.get("use_gradient_checkpointing"))


_LORA = {"apply_lora": True, "lora_rank": 8, "lora_alpha": 32, "lora_dropout": 0.0, "tokens_per_batch": 16_384}
_CHECKPOINTS = {"use_gradient_checkpointing": True, "offload_activations": True}


def _make_context_case(length: int) -> Case:
    """One long sample a step, with all that spares memory: two steps show how much it takes."""
    config = _LORA | _CHECKPOINTS | {"tokens_per_batch": length, "max_length": length, "torch_compile": "off"}
    return Case("8b", config, batch_size=1, num_warmup_steps=1, num_steps=1, num_windows=1, length=length)


CASES: dict[str, Case] = {
    "8b-lora": Case("8b", _LORA),
    # The budgets leave the whole at 24, 70 and 9.5 GiB.
    "8b-lora-checkpointing": Case("8b", _LORA | _CHECKPOINTS | {"activation_memory_budget_gib": 6.5}),
    "8b-qlora": Case("8b", _LORA | {"load_in_4bit": True, "activation_memory_budget_gib": 61.0}),
    "8b-qlora-checkpointing": Case("8b", _LORA | _CHECKPOINTS | {"load_in_4bit": True}),
    "8b-lora-fp8": Case("8b", _LORA | {"fp8_base": True}),
    "1b-full": Case("1b", {"tokens_per_batch": 16_384}),
    # X-LLM's defaults: dropout 0.1, two samples a step.
    "8b-lora-defaults": Case("8b", {"apply_lora": True}, batch_size=2, num_steps=20),
    "tiny-full": Case("tiny", {"tokens_per_batch": 4_096}, num_warmup_steps=4, num_steps=6),
    "tiny-lora": Case("tiny", _LORA | {"tokens_per_batch": 4_096}, num_warmup_steps=4, num_steps=6),
    **{f"8b-context-{length // 1024}k": _make_context_case(length) for length in (32_768, 65_536, 131_072)},
    "1b-lora-loss": Case("1b", {k: v for k, v in _LORA.items() if k != "tokens_per_batch"}, batch_size=16),
}

LEVERS: dict[str, dict[str, Any]] = {
    "all": {},
    "with compilation": {"torch_compile": "on"},
    "without compilation": {"torch_compile": "off"},
    "without compilation and Liger": {"torch_compile": "off", "use_liger_kernel": "off"},
    "without the fused loss": {"fused_loss": "off"},
    "without lean LoRA": {"lean_lora": "off"},
    "with autocast": {"autocast": "on"},
    "without tiled MLPs": {"tiled_mlp": "off"},
    "without packing": {
        **{"packing": "off", "tokens_per_batch": None, "torch_compile": "off"},
        **{"fused_loss": "off", "lean_lora": "off", "autocast": "on", "use_liger_kernel": "off"},
    },
}
"""What is turned off or on to see what it is worth."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """A sample of random tokens, all of them learned but the first."""

    input_ids: list[int]

    @property
    def is_target(self) -> list[bool]:
        """One for each token."""
        return [place > 0 for place in range(len(self.input_ids))]


def make_samples(count: int, *, vocab_size: int, length: int | None = None) -> list[Tokens]:
    """All of one length, or lengths as in chat data: log-normal, about 300 tokens in the mean, 32 to 2,048."""
    import numpy as np

    lengths = np.random.default_rng(0).lognormal(5.4, 0.8, count).clip(32, MAX_LENGTH).astype(int)
    if length is not None:
        lengths = np.full(min(count, 8), length)
    words = np.random.default_rng(1)
    return [Tokens(words.integers(10, vocab_size - 256, length).tolist()) for length in lengths]


def iterate_levers(names: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Those of the names, in order."""
    for name in names:
        yield name, LEVERS[name]


def build_model(shape: str, *, device: str, max_length: int = 8192) -> Any:
    """A Llama of this shape with random weights: bf16 on a GPU, fp32 elsewhere."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16 if device == "cuda" else torch.float32)
    settings = LlamaConfig(
        **SHAPES[shape], max_position_embeddings=max(8192, max_length), tie_word_embeddings=shape != "8b"
    )
    with torch.device(device):
        model = LlamaForCausalLM(settings)
    torch.set_default_dtype(torch.float32)
    return model


def write_rows(shape: str, path: Path, *, count: int) -> None:
    """JSON lines for a model of `write_model`: of each sample as many words as it has tokens."""
    with path.open("w") as file:
        for sample in make_samples(count, vocab_size=SHAPES[shape]["vocab_size"]):
            text = " ".join(f"w{token}" for token in sample.input_ids)
            file.write(json.dumps({"text_parts": [text]}) + "\n")


def write_model(shape: str, folder: Path, *, device: str) -> None:
    """The model, and a tokenizer that has a token for each word."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    build_model(shape, device=device).save_pretrained(folder, max_shard_size="5GB")
    words = {"<s>": 0, "</s>": 1, "<pad>": 2, "<unk>": 3}
    words |= {f"w{number}": number for number in range(len(words), SHAPES[shape]["vocab_size"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(folder)


def build_tokenizer() -> Any:
    """Any will do: the samples are tokens already."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {"<s>": 0, "</s>": 1, "<pad>": 2, "a": 3}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="a"))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def count_parameters(shape: str) -> int:
    """All that a token meets: without the input embeddings, unless they are the head as well."""
    settings = SHAPES[shape]
    width, vocab = settings["hidden_size"], settings["vocab_size"]
    keys = settings["num_key_value_heads"] * width // settings["num_attention_heads"]
    layer = width * (2 * width + 2 * keys + 3 * settings["intermediate_size"]) + 2 * width
    return settings["num_hidden_layers"] * layer + width * vocab + width
