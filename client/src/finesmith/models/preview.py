"""A preview: what a model would see of a data set, token by token."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from finesmith.wire import JsonValue

PreviewStatus = Literal["queued", "running", "succeeded", "failed"]
"""The states of a preview."""

FINISHED_PREVIEW_STATUSES = frozenset({"succeeded", "failed"})


@dataclass(frozen=True)
class PreviewToken:
    """One token of a sample."""

    id: int
    """As the model gets it."""
    text: str = ""
    """Its part of the sample's text; empty within a character of several tokens."""
    is_target: bool = False
    """Whether it is learned, given the tokens before it."""


@dataclass(frozen=True)
class PreviewSample:
    """One row as the model gets it."""

    row: int
    """The line of the file, from 1."""
    text: str = ""
    """The whole sample as text."""
    tokens: tuple[PreviewToken, ...] = ()
    """Not all of them where `is_shortened`."""
    num_tokens: int = 0
    """How many tokens the model gets."""
    num_target_tokens: int = 0
    """How many of them are learned."""
    is_truncated: bool = False
    """True if the row is longer than `max_length`."""
    is_shortened: bool = False
    """True if the list of tokens is cut for the preview alone."""


@dataclass(frozen=True)
class PreviewRowError:
    """A row that cannot be trained on."""

    row: int
    """The line of the file, from 1."""
    message: str = ""
    """What is wrong with it."""


@dataclass(frozen=True)
class PreviewResult:
    """What was rendered: samples, and counts over all rows."""

    dataset_key: str | None = None
    """Which data set reads the rows."""
    collator_key: str | None = None
    """Which collator makes tokens of them."""
    num_rows: int = 0
    """Rows of the file."""
    num_rows_counted: int = 0
    """Rows that the counts below are of: fewer for a file too large for a preview."""
    num_tokens: int = 0
    """Tokens of all rows."""
    num_target_tokens: int = 0
    """Tokens that are learned."""
    num_truncated_rows: int = 0
    """Rows longer than `max_length`."""
    num_rows_without_target: int = 0
    """Rows of which nothing is learned."""
    longest_row_tokens: int = 0
    """Tokens of the longest row, before it is cut."""
    num_rows_without_prefix_end: int = 0
    """Rows without the text that `collator_prefix_end` names."""
    num_errors: int = 0
    """Rows that cannot be trained on."""
    errors: tuple[PreviewRowError, ...] = ()
    """The first ten of them."""
    samples: tuple[PreviewSample, ...] = ()
    """The first rows, token by token."""
    extra: Mapping[str, JsonValue] = field(default_factory=dict)
    """Fields that this version of the SDK does not know."""


@dataclass(frozen=True)
class PreviewErrorInfo:
    """Why a preview failed."""

    code: str = "unknown"
    """A stable word for programs."""
    message: str = ""
    """For people: what happened and what to do."""
    param: str | None = None
    """The field to change; None when it is no single one."""


@dataclass(frozen=True)
class Preview:
    """A preview of a data set under a config; kept by the service for a day."""

    id: str
    """`preview-…`."""
    status: PreviewStatus = "queued"
    """Where it stands."""
    config: Mapping[str, JsonValue] = field(default_factory=dict)
    """The config with every default filled in, secrets as None."""
    file: str | None = None
    """The file that it is of."""
    n: int | None = None
    """How many samples were asked for."""
    result: PreviewResult | None = None
    """What was rendered; None before, and if it failed."""
    error: PreviewErrorInfo | None = None
    """Why it failed; None unless it did."""
    created_at: float | None = None
    """When it was asked for, in Unix seconds."""
    started_at: float | None = None
    """When a worker took it, in Unix seconds; None before."""
    finished_at: float | None = None
    """When it was over, in Unix seconds; None before."""
    extra: Mapping[str, JsonValue] = field(default_factory=dict)
    """Fields that this version of the SDK does not know."""

    @property
    def is_finished(self) -> bool:
        """True if it has succeeded or failed."""
        return self.status in FINISHED_PREVIEW_STATUSES
