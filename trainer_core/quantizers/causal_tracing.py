"""Attention that stays causal while llm-compressor calibrates."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def keep_causal(model: "PreTrainedModel") -> Iterator[None]:
    """Sees to it that the mask is made for the attention that calibrates, which is the eager one.

    llm-compressor cuts the model into parts and builds its config anew in the first, from the config's public fields.
    The kind of attention is none of them, and without it transformers makes no mask: the layers of Mistral, Phi-3 and
    others with a window would see the tokens behind each token, and be quantized for inputs that they never have.
    """
    settings: list[Any] = [model.config]
    if model.config.get_text_config() is not model.config:
        settings.append(model.config.get_text_config())
    for each in settings:
        each.attn_implementation = "eager"
    try:
        yield
    finally:
        for each in settings:
            del each.attn_implementation
