"""Which samples share a row: best-fit decreasing, with as few rows as it finds."""

from bisect import bisect_left, insort
from collections.abc import Sequence


def pack_best_fit(lengths: Sequence[int], *, capacity: int) -> list[list[int]]:
    """Groups of indices whose lengths add up to `capacity` at most; a longer sample has a row of its own.

    Takes samples from the longest on and puts each where the least room is left. Deterministic: equal lengths keep
    their order. The number of groups follows from the lengths alone, whatever their order.
    """
    if capacity < 1:
        raise ValueError(f"a row holds at least 1 token, not {capacity}")
    rows: list[list[int]] = []
    open_rows: list[tuple[int, int]] = []
    """(room, row), from the fullest to the emptiest."""
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        length = lengths[index]
        place = bisect_left(open_rows, (length, -1))
        if place < len(open_rows):
            room, row = open_rows.pop(place)
        else:
            room, row = max(capacity, length), len(rows)
            rows.append([])
        rows[row].append(index)
        if room > length:
            insort(open_rows, (room - length, row))
    return rows
