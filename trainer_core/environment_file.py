"""The `.env` file of a script and the tokens that a script finds in its environment."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

TOKEN_VARIABLES: "Mapping[str, tuple[str, ...]]" = {
    "huggingface_hub_token": ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"),
    "wandb_api_key": ("WANDB_API_KEY",),
}
"""Environment variables that hold the token of a Config field, the first that is set wins."""


def load_environment_file(path: str | None) -> bool:
    """Puts the file's variables into this process's environment where they are not set; False if there is no file."""
    if path is None or not Path(path).is_file():
        return False
    from dotenv import load_dotenv

    return load_dotenv(path, override=False)


def find_tokens() -> dict[str, str]:
    """Tokens found in this process's environment, by the Config field that takes them."""
    return _find_tokens_in(os.environ)


def read_tokens(path: str | None) -> dict[str, str]:
    """Tokens in a `.env` file, which changes no environment; empty when there is no file."""
    if path is None or not Path(path).is_file():
        return {}
    from dotenv import dotenv_values

    return _find_tokens_in(dotenv_values(path))


def _find_tokens_in(variables: "Mapping[str, str | None]") -> dict[str, str]:
    found = {}
    for field, names in TOKEN_VARIABLES.items():
        value = next((variables[name] for name in names if variables.get(name)), None)
        if value is not None:
            found[field] = value
    return found
