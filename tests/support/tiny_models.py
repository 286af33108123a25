"""Tiny real models with real tokenizers, made on the spot: nothing is downloaded."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

BOS = "<s>"
EOS = "</s>"
PAD = "<pad>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CHAT_TEMPLATE_WITH_GENERATION = (
    "{{ bos_token }}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>\n' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

_MOE_SHAPE: dict[str, object] = {"num_key_value_heads": 2, "num_experts_per_tok": 2}
SHAPES: dict[str, dict[str, object]] = {
    "llama": {"num_key_value_heads": 2},
    "mistral": {"num_key_value_heads": 2, "sliding_window": None},
    "qwen2": {"num_key_value_heads": 2},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 16},
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512},
    "gpt_neox": {},
    "falcon": {"new_decoder_architecture": False, "multi_query": True, "alibi": False},
    "opt": {"ffn_dim": 128, "word_embed_proj_dim": 64},
    "phi": {"num_key_value_heads": 4},
    "olmo2": {"num_key_value_heads": 2},
    "mixtral": _MOE_SHAPE | {"num_local_experts": 4},
    "qwen3_moe": _MOE_SHAPE | {"head_dim": 16, "num_experts": 4, "moe_intermediate_size": 32},
}
"""What makes a tiny model of each family, by transformers' `model_type`."""

_SUBJECTS = ("the cat", "a small dog", "our teacher", "Bob", "the old robot", "my sister")
_VERBS = ("reads", "writes", "sells", "finds", "paints", "remembers")
_OBJECTS = ("a long letter", "the blue house", "ten apples", "an answer", "some music", "the question")


def iterate_sentences() -> Iterator[str]:
    """216 short English sentences, always the same: enough text for a tokenizer and for a loss that falls."""
    for subject in _SUBJECTS:
        for verb in _VERBS:
            for thing in _OBJECTS:
                yield f"{subject} {verb} {thing}. Hello, how are you today? I am fine, thanks: {len(thing)}."


def build_tiny_tokenizer(
    *, vocab_size: int = 384, with_bos: bool = True, with_pad: bool = True, chat_template: str | None = CHAT_TEMPLATE
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer: any text round-trips, bos is id 0, eos 1, pad 2 (if `with_pad`).

    `with_bos=False` leaves `bos_token` unset and adds nothing in front of a text, as Falcon and Qwen do.
    """
    specials = [BOS, EOS, PAD, TURN_START, TURN_END]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(iterate_sentences(), trainer)
    if with_bos:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, 0)]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=BOS if with_bos else None,
        eos_token=EOS,
        pad_token=PAD if with_pad else None,
        additional_special_tokens=[TURN_START, TURN_END],
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def build_tiny_llama(
    folder: Path, *, tokenizer: PreTrainedTokenizerFast | None = None, seed: int = 0, **overrides: object
) -> Path:
    """Write a Llama of about 0.4 M parameters and its tokenizer into `folder`, and return the folder.

    `overrides` are LlamaConfig fields (`tie_word_embeddings=True`, `num_hidden_layers=1`…). The widths are multiples
    of 128, so that GPTQ's default group size fits. The same arguments give the same weights; the global random state
    is left alone.
    """
    tokenizer = tokenizer or build_tiny_tokenizer()
    fields: dict[str, object] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": False,
    }
    config = LlamaConfig(**(fields | overrides))  # type: ignore[arg-type]
    return _save(folder, tokenizer=tokenizer, build=LlamaForCausalLM, config=config, seed=seed)


def build_tiny_gpt2(folder: Path, *, tokenizer: PreTrainedTokenizerFast | None = None, seed: int = 0) -> Path:
    """Write a GPT-2 (Conv1D layers, tied head) and its tokenizer into `folder`, and return the folder."""
    tokenizer = tokenizer or build_tiny_tokenizer()
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=64,
        n_layer=2,
        n_head=4,
        n_positions=512,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return _save(folder, tokenizer=tokenizer, build=GPT2LMHeadModel, config=config, seed=seed)


def build_tiny_model(
    folder: Path,
    *,
    family: str,
    tokenizer: PreTrainedTokenizerFast | None = None,
    seed: int = 0,
    **overrides: object,
) -> Path:
    """Write a tiny model of one of the families in `SHAPES` and its tokenizer into `folder`, and return the folder.

    `overrides` are fields of the family's own config, such as `tie_word_embeddings=True`.
    """
    tokenizer = tokenizer or build_tiny_tokenizer()
    fields: dict[str, object] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = AutoConfig.for_model(family, **(fields | SHAPES[family] | overrides))
    return _save(folder, tokenizer=tokenizer, build=AutoModelForCausalLM.from_config, config=config, seed=seed)


def _save(
    folder: Path,
    *,
    tokenizer: PreTrainedTokenizerFast,
    build: Callable[[Any], PreTrainedModel],
    config: PreTrainedConfig,
    seed: int,
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
