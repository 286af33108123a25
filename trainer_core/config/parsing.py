"""How the looser spellings of some keys become their values."""

import json
import re

LORA_INITS = ("gaussian", "pissa", "olora", "orthogonal", "loftq")
LORA_INITS_ELSEWHERE = ("eva", "corda", "lora_ga", "mica")
"""Those of peft that look at training data before the training begins."""


def parse_deepspeed_stage(value: object) -> object:
    """`2`, `"2"` and `"stage_2"` are the same stage; None is off."""
    if value is None:
        return 0
    if isinstance(value, str):
        return value.strip().removeprefix("stage_")
    return value


def parse_lora_targets(value: object) -> object:
    """A command line gives a list of one string for what was one string; a pattern must compile."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, str):
        if not value.strip():
            raise ValueError("names no module; use 'all', a list of names or 're:<pattern>'")
        if value.startswith("re:"):
            try:
                re.compile(value[3:])
            except re.error as error:
                raise ValueError(f"is not a regular expression: {error}") from error
    if isinstance(value, list) and not value:
        raise ValueError("names no module; use 'all', a list of names or 're:<pattern>'")
    return value


def split_lora_targets(value: str | list[str]) -> list[str] | str | None:
    """None for `all`, the pattern of `re:<pattern>`, else the list of names."""
    if isinstance(value, list):
        return [name.strip() for name in value]
    if value.strip() == "all":
        return None
    if value.startswith("re:"):
        return value[3:]
    return [name.strip() for name in value.split(",") if name.strip()]


def split_names(value: object) -> object:
    """A comma-separated string, `none` or None is a list of names too."""
    if value is None:
        return []
    if isinstance(value, str):
        return [name.strip() for name in value.split(",") if name.strip() and name.strip() != "none"]
    return value


def split_optional_names(value: object) -> object:
    """As `split_names`, with None, `none` and an empty list meaning None."""
    return split_names(value) or None


def parse_lora_init(value: object) -> object:
    """`True` and `false` as a command line gives them; else one of peft's names."""
    if isinstance(value, bool):
        return value
    name = str(value).strip()
    if name.lower() in ("true", "false"):
        return name.lower() == "true"
    if name in LORA_INITS_ELSEWHERE:
        raise ValueError(f"{name!r} looks at data before the training, which is not supported; use 'pissa' or 'olora'")
    if name not in LORA_INITS and not re.fullmatch(r"pissa_niter_[1-9]\d{0,2}", name):
        raise ValueError(f"must be True, False, pissa_niter_<n> or one of {', '.join(LORA_INITS)}, not {name!r}")
    return name


def parse_options(value: object) -> object:
    """A JSON object as text, as a command line gives it, is an object too."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise ValueError(f"is not a JSON object: {error}") from error
