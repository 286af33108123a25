"""The files of a small repository that looks like `allenai/soda`."""

import io
from collections.abc import Sequence

import pyarrow
import pyarrow.parquet


def build_soda_files(
    *, train: Sequence[int] = range(1, 13), valid: Sequence[int] = (90,), test: Sequence[int] = (80, 81)
) -> dict[str, bytes]:
    """Three parquet files; the numbers are the rows' `original_index`."""
    splits = {"train": train, "valid": valid, "test": test}
    return {f"{name}.parquet": _build_split(indices, name) for name, indices in splits.items()}


def _build_split(indices: Sequence[int], name: str) -> bytes:
    rows = [
        {
            "original_index": index,
            "narrative": f"{name} {index}",
            "speakers": ["Bob", "Ann"],
            "dialogue": ["Hi", "Hello"],
        }
        for index in indices
    ]
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), buffer)
    return buffer.getvalue()
