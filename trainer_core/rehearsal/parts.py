"""A tokenizer, rows and a model that are as small as they can be, made in memory."""

from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from trainer_core.types import RawSample

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma3")
"""Of models: the code of each is loaded when a model of it is, 10 to 30 ms; of these beforehand."""
_WORDS = ("a", "b", "c", "d")
_SPECIALS = ("<s>", "</s>", "<pad>")
_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of seven words."""
    vocabulary = {word: index for index, word in enumerate((*_SPECIALS, *_WORDS))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.WordPiece()
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<pad>"
    )
    tokenizer.chat_template = _TEMPLATE
    return tokenizer


def build_rows() -> list[RawSample]:
    """A few rows of text in two parts."""
    return [{"text_parts": ["a b", "c d"]}, {"text_parts": ["b", "c"]}, {"text_parts": ["a", "d c b"]}]


def build_model() -> Any:
    """A Llama of some hundred parameters, read from weights as one on a disk is."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(_SPECIALS) + len(_WORDS),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        max_position_embeddings=64,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    weights = LlamaForCausalLM(config).state_dict()  # type: ignore[no-untyped-call]
    return LlamaForCausalLM.from_pretrained(None, config=config, state_dict=weights)
