"""How the looser spellings of some keys become their values."""

import re


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
