"""Checks of the key `chat_template` that need no tokenizer."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainer_core.errors import Problem

if TYPE_CHECKING:
    from trainer_core.config.fields import Config

CHATML = "chatml"


def find_template_problems(config: "Config") -> Iterator[Problem]:
    """A text that is neither a built-in template's name nor Jinja is a wrong name; its syntax is read in prepare."""
    template = config.chat_template
    if template is None or template == CHATML or "{{" in template or "{%" in template:
        return
    message = f"chat_template: {template[:40]!r} is neither 'chatml' nor the text of a Jinja template"
    yield Problem(message, "chat_template", "invalid_value")
