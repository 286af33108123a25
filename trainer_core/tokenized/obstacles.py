"""Why samples cannot be tokenised once: where it would not be exactly what training reads without it."""

import re
from typing import Any

from trainer_core.collators.base import BaseCollator
from trainer_core.collators.completion import CompletionCollator
from trainer_core.collators.lm import LMCollator
from trainer_core.collators.row_check import encodes_samples
from trainer_core.collators.token_collator import TokenCollator
from trainer_core.datasets.base import BaseDataset
from trainer_core.tokenized.content_key import describe_class, describe_settings

BATCH_KEYS = ("input_ids", "attention_mask", "labels")

_CHANCE = re.compile(r"\|\s*random\b|\blipsum\s*\(")
_CLOCK = re.compile(r"\bstrftime_now\s*\(")
_CLOCK_WITH_FORMAT = re.compile(r"\bstrftime_now\s*\(\s*(?:format\s*=\s*)?(['\"])(?P<format>.*?)\1\s*\)")
_DIRECTIVE = re.compile(r"%[-_0^#]?(.)")
_DIRECTIVES_OF_DAYS = frozenset("aAbBdDeFghGjmuUVwWxyYC%")
"""What `strftime` writes alike from midnight to midnight."""


def find_obstacle(dataset: object, collator: object) -> str | None:
    """Why these samples cannot be tokenised once, as a sentence without its stop; None: they can.

    Looks at no row. Exact are data sets and collators whose class declares it, with a tokenizer that does not draw at
    random and a chat template that tells nothing finer than the date.
    """
    if not isinstance(dataset, BaseDataset):
        return f"the data set is a {type(dataset).__name__}, not a BaseDataset"
    if not type(dataset).__dict__.get("gives_same_samples", False):
        return f"{type(dataset).__name__} does not declare gives_same_samples"
    if not isinstance(collator, BaseCollator) or not encodes_samples(collator):
        return f"{type(collator).__name__} makes its batches in a way of its own"
    return (
        _find_in_collator(collator)
        or _find_in_tokenizer(collator.tokenizer)
        or _find_in_template(collator)
        or _find_indescribable(dataset, collator)
    )


def uses_clock(collator: TokenCollator) -> bool:
    """Whether its chat template writes today's date into samples."""
    return any(_CLOCK.search(template) for template in list_templates(collator))


def list_templates(collator: TokenCollator) -> list[str]:
    """The chat templates that may be rendered; none for collators that join texts."""
    if isinstance(collator, LMCollator | CompletionCollator):
        return []
    template: Any = collator.tokenizer.chat_template
    if isinstance(template, dict):
        return [str(text) for text in template.values()]
    return [str(template)] if template else []


def _find_in_collator(collator: TokenCollator) -> str | None:
    cls = type(collator)
    if not cls.__dict__.get("gives_same_tokens", False):
        return f"{cls.__name__} does not declare gives_same_tokens"
    if cls.__call__ is not BaseCollator.__call__:
        return f"{cls.__name__} makes its batches in a way of its own"
    if missing := [key for key in collator.batch_must_have_keys if key not in BATCH_KEYS]:
        return f"batches must have {', '.join(map(repr, missing))}, which tokens alone do not give"
    return None


def _find_in_tokenizer(tokenizer: Any) -> str | None:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return f"the tokenizer {type(tokenizer).__name__} has no state that tells it from another"
    if getattr(backend.model, "dropout", None):
        return "the tokenizer draws its merges at random (dropout)"
    return None


def _find_in_template(collator: TokenCollator) -> str | None:
    for template in list_templates(collator):
        if _CHANCE.search(template):
            return "the chat template draws at random"
        formats = [match["format"] for match in _CLOCK_WITH_FORMAT.finditer(template)]
        directives = {directive for form in formats for directive in _DIRECTIVE.findall(form)}
        if len(formats) < len(_CLOCK.findall(template)) or not directives <= _DIRECTIVES_OF_DAYS:
            return "the chat template writes the time of day"
    return None


def _find_indescribable(dataset: BaseDataset, collator: TokenCollator) -> str | None:
    """What the cache's key cannot hold: then nothing tells whether samples that were kept are these samples."""
    try:
        for part in (dataset, collator, collator.tokenizer):
            describe_class(type(part))
        describe_settings(dataset, leaving_out=("data",))
        describe_settings(collator, leaving_out=("tokenizer",))
    except TypeError as error:
        return str(error)
    return None
