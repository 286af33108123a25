"""Chat templates: the Config's own, the built-in ChatML, and what a template's text tells about it."""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from trainer_core.config.template_checks import CHATML
from trainer_core.errors import ModelLoadError
from trainer_core.tokenizers.text_encoding import find_special_affixes

GENERATION_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"

_CHATML_PARTS = (
    "{%- if tools %}"
    "{{- '<|im_start|>system\\n' }}"
    "{%- if messages[0]['role'] == 'system' %}{{- messages[0]['content'] + '\\n\\n' }}{%- endif %}"
    "{{- 'Functions that may be called, one JSON object each:\\n' }}"
    "{%- for tool in tools %}{{- (tool | tojson) + '\\n' }}{%- endfor %}"
    '{{- \'A call is written as <tool_call>{"name": ..., "arguments": {...}}</tool_call>.<|im_end|>\\n\' }}'
    "{%- endif %}"
    "{%- for message in messages %}"
    "{%- if not (tools and loop.first and message['role'] == 'system') %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' }}"
    "{%- if message['content'] %}{{- message['content'] }}{%- endif %}"
    "{%- for call in message['tool_calls'] or [] %}"
    "{{- '<tool_call>' }}"
    "{{- {'name': call['function']['name'], 'arguments': call['function']['arguments']} | tojson }}"
    "{{- '</tool_call>' }}"
    "{%- endfor %}"
    "{{- '<|im_end|>' }}",
    "{{- '\\n' }}{%- endif %}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}",
)
"""Around what ends an assistant's turn besides its marker."""


@dataclass(frozen=True, slots=True)
class TemplateTraits:
    """What can be known of a template without rendering it."""

    has_marks: bool
    """It marks what the assistant says by `{% generation %}`."""
    variables: frozenset[str]
    """Names that it reads and does not set itself."""


def set_chat_template(tokenizer: Any, template: str) -> None:
    """Gives the tokenizer the Config's `chat_template`: Jinja text, or `chatml`.

    Raises ModelLoadError for a text that is no template.
    """
    text = write_chatml(tokenizer) if template == CHATML else template
    read_traits(text)
    tokenizer.chat_template = text


def write_chatml(tokenizer: Any) -> str:
    """ChatML as this tokenizer can learn it; the vocabulary is left as it is.

    A text starts with a BOS where the tokenizer puts one in front of every text. Where the vocabulary lacks the
    markers they are plain text, which ends no generation: an assistant's turn then ends in the end-of-text token, too.
    """
    leading = find_special_affixes(tokenizer).leading
    bos = "{{- bos_token }}" if tokenizer.bos_token_id is not None and tokenizer.bos_token_id in leading else ""
    has_eos = not has_chatml_markers(tokenizer) and tokenizer.eos_token is not None
    eos = "{%- if message['role'] == 'assistant' %}{{- eos_token }}{%- endif %}" if has_eos else ""
    start, end = _CHATML_PARTS
    return f"{bos}{start}{eos}{end}"


def has_chatml_markers(tokenizer: Any) -> bool:
    """Whether ChatML's markers are tokens of their own."""
    vocabulary = tokenizer.get_vocab()
    return TURN_START in vocabulary and TURN_END in vocabulary


def describe_chatml(tokenizer: Any) -> str:
    """What a user should know about ChatML with this tokenizer, one sentence or two."""
    if has_chatml_markers(tokenizer):
        advice = "" if tokenizer.eos_token == TURN_END else f"; let generation stop at {TURN_END}"
        return f"chat_template='chatml': its markers are tokens of the vocabulary{advice}"
    return (
        "chat_template='chatml': its markers are no tokens of the vocabulary and become plain text of several tokens; "
        f"an assistant's turn also ends in {tokenizer.eos_token!r}, where generation stops"
    )


@lru_cache(maxsize=16)
def read_traits(template: str) -> TemplateTraits:
    """Parses the template. Raises ModelLoadError naming `chat_template` and the line that is wrong."""
    if "{{" not in template and "{%" not in template:
        message = f"chat_template: {template[:40]!r} is neither 'chatml' nor Jinja text"
        raise ModelLoadError(message, param="chat_template")
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationMark, jinja2.ext.loopcontrols]
    )
    try:
        tree = environment.parse(template)
        environment.compile(tree)
    except jinja2.TemplateSyntaxError as error:
        message = f"chat_template: line {error.lineno} is no Jinja template: {error.message}"
        raise ModelLoadError(message, param="chat_template") from error
    return TemplateTraits(
        has_marks=GENERATION_MARK.search(template) is not None,
        variables=frozenset(jinja2.meta.find_undeclared_variables(environment.parse(template))),
    )


class _GenerationMark(jinja2.ext.Extension):
    """Reads `{% generation %}` blocks, which transformers renders."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own attribute

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node | list[jinja2.nodes.Node]:
        next(parser.stream)
        return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))
