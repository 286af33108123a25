"""The options that optimizers and schedulers take besides the Config's own keys, and how their values are read."""

import math
from collections.abc import Iterator, Mapping
from typing import Literal

from trainer_core.errors import Problem
from trainer_core.registry import describe_unknown_key

Option = Literal["number", "integer", "flag", "true"] | tuple[str, ...]
"""A finite number, a whole number, a bool, a bool that can only be turned on, or one of some words."""


def find_option_problems(
    given: Mapping[str, object], known: Mapping[str, Option], *, param: str, owner: str
) -> Iterator[Problem]:
    """What is wrong with the options in the key `param`; `owner` is what takes them, as `optim='sgd'`."""
    for name, value in given.items():
        if not known:
            yield Problem(f"{param}: {owner} takes no options; leave {param} out", param, "unknown_key")
            return
        if name not in known:
            message = describe_unknown_key(name, known=sorted(known), where=f"the options of {owner}")
            yield Problem(f"{param}: {message}", param, "unknown_key")
            continue
        wanted = _describe_mismatch(value, known[name])
        if wanted is not None:
            yield Problem(f"{param}: {name} must be {wanted}, not {value!r}", param, "invalid_value")


def _describe_mismatch(value: object, option: Option) -> str | None:
    """What the value should be; None when it is."""
    if isinstance(option, tuple):
        return None if value in option else f"one of {', '.join(option)}"
    text = str(value).strip().lower()
    if option == "true":
        return None if text == "true" else "True, or left out"
    if option == "flag":
        return None if text in ("true", "false") else "True or False"
    if isinstance(value, bool) or value is None:
        return "a number"
    return _describe_number(text, is_whole=option == "integer")


def _describe_number(text: str, *, is_whole: bool) -> str | None:
    try:
        number = float(text)
    except ValueError:
        return "a number"
    if not math.isfinite(number):
        return "a finite number"
    if not is_whole:
        return None
    if number < 0 or not text.lstrip("+").isdigit():
        return "a whole number of at least 0"
    return None
