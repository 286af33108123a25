"""One page of a list, which walks on to the following ones by itself."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class Page(Generic[Item]):
    """A part of a list. Iterating gives the items of this page and of all that follow, fetched as they are needed."""

    data: tuple[Item, ...]
    """The items of this page only."""
    has_more: bool
    """True if the list goes on after this page."""
    _fetch_next: "Callable[[], Page[Item]] | None" = field(default=None, repr=False, compare=False)

    def next_page(self) -> "Page[Item] | None":
        """Fetches the page that follows; None if this is the last."""
        if not self.has_more or not self.data or self._fetch_next is None:
            return None
        return self._fetch_next()

    def __iter__(self) -> Iterator[Item]:
        page: Page[Item] | None = self
        while page is not None:
            yield from page.data
            page = page.next_page()
