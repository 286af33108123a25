"""Fetches lists page by page."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from finesmith.models.page import Page
from finesmith.transport import Call, Transport
from finesmith.wire import as_object, as_sequence, decode

Item = TypeVar("Item")

LONG_PAGES = {"limit": 1000}
"""The longest pages that the service gives of events and log lines."""


@dataclass(frozen=True)
class ListQuery(Generic[Item]):
    """Which list to fetch and from where."""

    path: str
    model: type[Item]
    params: Mapping[str, str | int] = field(default_factory=dict)
    """The query, `after` included when not from the beginning."""
    cursor_field: str = "id"
    """The field of an item that `after` takes."""
    finish: Callable[[Item], Item] | None = None
    """What to do with each item before it is given out."""

    def starting_after(self, after: str | int | None) -> "ListQuery[Item]":
        """The same list from another place; None leaves the place as it is."""
        return self if after is None else replace(self, params={**self.params, "after": after})


def fetch_page(transport: Transport, query: ListQuery[Item]) -> Page[Item]:
    """Fetches the page that the query begins with; the page fetches those that follow it."""
    answer = as_object(transport.send(Call("GET", query.path, params=query.params)))
    items = tuple(decode(query.model, item) for item in as_sequence(answer.get("data")))
    if query.finish is not None:
        items = tuple(query.finish(item) for item in items)

    def fetch_next() -> Page[Item]:
        return fetch_page(transport, query.starting_after(getattr(items[-1], query.cursor_field)))

    return Page(items, has_more=bool(answer.get("has_more")), _fetch_next=fetch_next)


def fetch_all(transport: Transport, query: ListQuery[Item]) -> Iterator[Item]:
    """Every item of the list, fetched as needed."""
    yield from fetch_page(transport, query)
