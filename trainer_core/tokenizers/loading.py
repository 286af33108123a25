"""Loading of the tokenizer that the Config names."""

import copy
import os
from pathlib import Path
from typing import Any

from trainer_core.config import Config
from trainer_core.errors import ModelLoadError
from trainer_core.tokenizers.chat_template import set_chat_template

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")


def build_tokenizer(config: Config, *, name: str | None = None) -> Any:
    """The tokenizer, with a padding token, the Config's padding side and its chat template; `name` wins over its own.

    A tokenizer without a padding token pads with its end of text, which changes nothing that is learned: collators
    know padding by its place. Raises ModelLoadError naming the option.
    """
    from transformers import AutoTokenizer

    name = name or config.correct_tokenizer_name_or_path
    param = "tokenizer_name_or_path" if config.tokenizer_name_or_path else "model_name_or_path"
    if name.startswith(("/", "./", "../", "~")) and not Path(name).is_dir():
        raise ModelLoadError(f"{param}: there is no folder {name!r}", param=param)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            name,
            revision=_get_revision(config, name),
            trust_remote_code=config.trust_remote_code,
            token=config.huggingface_hub_token,
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelLoadError(f"{param}: no tokenizer could be loaded from {name!r}: {error}", param=param) from error
    _set_padding(tokenizer, config, param=param)
    if config.chat_template is not None:
        set_chat_template(tokenizer, config.chat_template)
    return tokenizer


def load_source_tokenizer(source: str, *, config: Config) -> Any:
    """The tokenizer that lies in the model's folder, as training left it there, else the one that the Config names."""
    if any((Path(source) / name).is_file() for name in TOKENIZER_FILES):
        config = copy.copy(config)
        config.tokenizer_name_or_path = source
    return build_tokenizer(config)


def _get_revision(config: Config, name: str) -> str:
    """`model_revision` belongs to the model's repository; a tokenizer of another one has its own history."""
    is_of_model = name == config.model_name_or_path and not os.path.isdir(name)
    return config.model_revision if is_of_model and config.model_revision else "main"


def _set_padding(tokenizer: Any, config: Config, *, param: str) -> None:
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            message = (
                f"{param}: the tokenizer {tokenizer.name_or_path!r} has neither a padding nor an end-of-text token"
            )
            raise ModelLoadError(message, param=param)
        tokenizer.pad_token = tokenizer.eos_token
    if config.tokenizer_padding_side is not None:
        tokenizer.padding_side = config.tokenizer_padding_side
