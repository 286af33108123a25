"""A preview as a page for a terminal."""

import shutil
from collections.abc import Iterable, Iterator
from itertools import groupby

from trainer_core.preview import Preview, PreviewSample

TARGET_MARKS = ("⟦", "⟧")
"""Around what is learned, where there is no colour."""
TARGET_COLOUR = "\x1b[30;42m"
END_OF_COLOUR = "\x1b[0m"
MAX_CHARACTERS = 20_000
"""Text of one sample that is shown."""


def format_preview(preview: Preview, *, has_colour: bool) -> str:
    """Samples with what is learned marked, by colour or by ⟦ and ⟧, then the counts and the rows that fail."""
    width = min(shutil.get_terminal_size().columns, 120)
    lines: list[str] = []
    for sample in preview.samples:
        lines += [_format_head(sample).ljust(width, "─"), _format_text(sample, has_colour=has_colour)]
    lines += ["─" * width, *_format_counts(preview)]
    return "\n".join(lines) + "\n"


def _format_head(sample: PreviewSample) -> str:
    notes = ", cut to max_length" if sample.is_truncated else ""
    notes += ", shown in part" if sample.is_shortened else ""
    return f"── line {sample.row}: {sample.num_tokens} tokens, {sample.num_target_tokens} learned{notes} "


def _format_text(sample: PreviewSample, *, has_colour: bool) -> str:
    start, end = (TARGET_COLOUR, END_OF_COLOUR) if has_colour else TARGET_MARKS
    pieces = []
    for is_target, tokens in groupby(sample.tokens, key=lambda token: token.is_target):
        text = _show_control_characters("".join(token.text for token in tokens))
        pieces.append(f"{start}{text}{end}" if is_target else text)
    return _cut("".join(pieces), end=end if has_colour else "")


def _cut(text: str, *, end: str) -> str:
    if len(text) <= MAX_CHARACTERS:
        return text
    return f"{text[:MAX_CHARACTERS]}{end}… {len(text) - MAX_CHARACTERS} more characters"


def _show_control_characters(text: str) -> str:
    """Data must not command the terminal."""
    return "".join(_show(letter) for letter in text)


def _show(letter: str) -> str:
    return letter if letter in "\n\t" or letter.isprintable() else letter.encode("unicode_escape").decode()


def _format_counts(preview: Preview) -> Iterator[str]:
    yield f"dataset_key={preview.dataset_key}, collator_key={preview.collator_key}"
    counts: Iterable[tuple[str, int]] = (
        ("rows", preview.num_rows),
        ("rows counted", preview.num_rows_counted),
        ("tokens", preview.num_tokens),
        ("tokens learned", preview.num_target_tokens),
        ("longest row, tokens", preview.longest_row_tokens),
        ("rows cut to max_length", preview.num_truncated_rows),
        ("rows with nothing to learn", preview.num_rows_without_target),
        ("rows without collator_prefix_end", preview.num_rows_without_prefix_end),
        ("rows that cannot be used", preview.num_errors),
    )
    for name, number in counts:
        yield f"{name:<34}{number:>16,}"
    for error in preview.errors:
        yield f"line {error.row}: {_show_control_characters(error.message)}"
    if preview.num_errors > len(preview.errors):
        yield f"… and {preview.num_errors - len(preview.errors)} more rows"
