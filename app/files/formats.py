"""Files that are no JSON lines, told by their first bytes and their names, so that the error can say what to do."""

from pathlib import PurePosixPath

_CONVERT = "upload JSON lines: UTF-8 text, one JSON object a line"
_PICKLED = "it can run code when it is read; " + _CONVERT
_UNPACK = "nothing is unpacked here; unpack it and " + _CONVERT
_FIRST_BYTES: tuple[tuple[bytes, str, str], ...] = (
    (b"PK\x03\x04", "a zip archive (or weights saved by torch)", _UNPACK),
    (b"PK\x05\x06", "an empty zip archive", _UNPACK),
    (b"\x1f\x8b", "compressed by gzip", _UNPACK),
    (b"BZh", "compressed by bzip2", _UNPACK),
    (b"\xfd7zXZ\x00", "compressed by xz", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (b"Rar!\x1a\x07", "a rar archive", _UNPACK),
    (b"PAR1", "Parquet", _CONVERT),
    (b"ARROW1", "Arrow", _CONVERT),
    (b"Obj\x01", "Avro", _CONVERT),
    (b"SQLite format 3\x00", "an SQLite database", _CONVERT),
    (b"\x89HDF\r\n\x1a\n", "HDF5", _CONVERT),
    (b"\x93NUMPY", "a NumPy array", _PICKLED),
    (b"GGUF", "a GGUF model", _CONVERT),
    (b"%PDF-", "a PDF", _CONVERT),
    (b"\x7fELF", "a program", _CONVERT),
    (b"\xff\xfe", "text in UTF-16", _CONVERT),
    (b"\xfe\xff", "text in UTF-16", _CONVERT),
    # Protocols 2 to 5.
    *((b"\x80" + bytes([version]), "a Python pickle", _PICKLED) for version in (2, 3, 4, 5)),
)
_TAR_MARK = (257, b"ustar")
_NAMES = {
    **dict.fromkeys((".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz"), _PICKLED),
    **dict.fromkeys((".zip", ".gz", ".bz2", ".xz", ".zst", ".tar", ".tgz", ".7z", ".rar"), _UNPACK),
    **dict.fromkeys((".parquet", ".arrow", ".safetensors", ".gguf", ".csv", ".tsv", ".xlsx"), _CONVERT),
}


def find_foreign_name(filename: str) -> str | None:
    """What is wrong with an upload of this name; None when its content may tell."""
    suffix = PurePosixPath(filename.replace("\\", "/")).suffix.lower()
    advice = _NAMES.get(suffix)
    return None if advice is None else f"the file is named {suffix}: {advice}"


def find_foreign_content(first_bytes: bytes) -> str | None:
    """What an upload is that begins so; None when it may be text. A few hundred bytes tell."""
    for magic, what, advice in _FIRST_BYTES:
        if first_bytes.startswith(magic):
            return f"the file is {what}: {advice}"
    offset, mark = _TAR_MARK
    if first_bytes[offset : offset + len(mark)] == mark:
        return f"the file is a tar archive: {_UNPACK}"
    return None
