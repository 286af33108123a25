"""Tokenizers: loading by Config, encoding of texts, rendering of conversations."""

from trainer_core.tokenizers.loading import build_tokenizer

__all__ = ["build_tokenizer"]
