"""Checks of the keys about repositories on a hub."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainer_core.errors import Problem

if TYPE_CHECKING:
    from trainer_core.config.fields import Config

PUSH_KEYS = ("hub_model_id", "fused_hub_model_id", "quantized_hub_model_id")
_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
_REPOSITORY = re.compile(rf"(?:{_PART}/)?{_PART}")


def find_hub_problems(config: "Config") -> Iterator[Problem]:
    """What is wrong between the keys: a push without a repository, a name that is none, two pushes to one."""
    if config.push_to_hub and config.hub_model_id is None:
        message = "push_to_hub: there is no repository to push to; set hub_model_id, as owner/name"
        yield Problem(message, "hub_model_id", "missing_input")
    for key in PUSH_KEYS:
        name = getattr(config, key)
        if name is not None and not is_repository_name(name):
            yield Problem(f"{key}: {name!r} is no repository's name; it reads owner/name", key, "invalid_value")
    yield from _find_collisions(config)
    token = config.huggingface_hub_token
    if token is not None and not (token.isascii() and token.isprintable() and " " not in token):
        message = "huggingface_hub_token: a token has no spaces, line breaks or other signs than ASCII; copy it anew"
        yield Problem(message, "huggingface_hub_token", "invalid_value")


def find_hub_warnings(config: "Config") -> list[Problem]:
    """What a Config says about pushing that has no effect on a job that trains."""
    if config.hub_model_id is not None and not config.push_to_hub:
        message = (
            "hub_model_id is set, but push_to_hub is not: training pushes nothing there; set push_to_hub=True, or "
            "leave hub_model_id out"
        )
        return [Problem(message, "hub_model_id", "no_effect")]
    return []


def is_repository_name(name: str) -> bool:
    """Whether a hub takes the name: `owner/name` or `name`, each part at most 96 signs."""
    is_odd = "--" in name or ".." in name or name.endswith(".git")
    return _REPOSITORY.fullmatch(name) is not None and not is_odd


def _find_collisions(config: "Config") -> Iterator[Problem]:
    """Also with the repository that an adapter is read from: a fused model would bury it."""
    taken: dict[str, str] = {}
    for key in PUSH_KEYS:
        name = getattr(config, key)
        if name is None:
            continue
        other = taken.setdefault(name.casefold(), key)
        if other != key:
            message = f"{key}: {name!r} is {other} too; two pushes would overwrite each other, give each a repository"
            yield Problem(message, key, "conflict")
    source = config.lora_hub_model_id
    target = "hub_model_id" if config.fused_hub_model_id is None else "fused_hub_model_id"
    if source is not None and source.casefold() == (getattr(config, target) or "").casefold():
        message = f"{target}: {source!r} holds the adapter that is fused; give the fused model a repository of its own"
        yield Problem(message, target, "conflict")
