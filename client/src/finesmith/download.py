"""Downloads one file: resumed where it was cut off, checked, and under its name only when it is complete."""

import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

from finesmith.errors import APIError, APIStatusError, ChecksumMismatch
from finesmith.models.artifact import Artifact
from finesmith.paths import artifact_path
from finesmith.retry import Outage
from finesmith.transport import Call, Transport


@dataclass(frozen=True)
class Source:
    """What to download, and what it must turn out to be."""

    path: str
    """Path of the API."""
    label: str
    """What to call it in errors."""
    tag: str
    """Changes with the content: names the unfinished file, so that no other content is ever continued."""
    num_bytes: int | None = None
    """Size in bytes; None: unknown, not checked."""
    sha256: str | None = None
    """Digest; None: unknown, not checked."""


def artifact_source(job_id: str, artifact: Artifact) -> Source:
    """Where an artifact comes from. Its path must be checked before."""
    return Source(
        artifact_path(job_id, artifact.path),
        label=f"{job_id} {artifact.path}",
        tag=artifact.sha256[:12],
        num_bytes=artifact.bytes,
        sha256=artifact.sha256,
    )


def download_file(transport: Transport, source: Source, target: Path) -> None:
    """Leaves the content in `target`, whose folder is made; does nothing if it is there already.

    A cut connection is resumed as long as the service comes back within `max_outage_seconds`. Content that turns out
    wrong is fetched once more from its first byte, then ChecksumMismatch is raised. Raises OSError for a full disk.
    """
    if target.is_file() and source.sha256 is not None and _find_fault(target, source) is None:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.{source.tag}.part")
    for is_last_try in (False, True):
        _fetch_all(transport, source, part)
        fault = _find_fault(part, source)
        if fault is None:
            os.replace(part, target)
            return
        part.unlink()
        if is_last_try:
            raise ChecksumMismatch(f"{source.label}: {fault}.")


def _fetch_all(transport: Transport, source: Source, part: Path) -> None:
    outage = Outage(transport.settings.retry)
    part.touch()
    while True:
        num_bytes_before = part.stat().st_size
        try:
            _fetch_rest(transport, source, part)
            return
        except APIError as error:
            if part.stat().st_size > num_bytes_before:
                outage.end()
            time.sleep(outage.delay_after(error))


def _fetch_rest(transport: Transport, source: Source, part: Path) -> None:
    start = part.stat().st_size
    if source.num_bytes is not None and start >= source.num_bytes:
        return
    # Without `identity` a compressed answer would be counted and hashed instead of the content.
    headers = {"Accept": "*/*", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        with transport.open_stream(Call("GET", source.path, headers=headers)) as response:
            is_rest = response.status_code == 206 and _range_start(response.headers.get("content-range")) == start
            if response.status_code == 206 and not is_rest:
                raise ChecksumMismatch(f"{source.label}: asked for bytes from {start}, got {dict(response.headers)}.")
            with part.open("ab" if is_rest else "wb") as file:
                # Chunks as they come: larger ones would be lost half-filled when the connection breaks.
                for chunk in response.iter_raw():
                    file.write(chunk)
                    if source.num_bytes is not None and file.tell() > source.num_bytes:
                        return
                file.flush()
                os.fsync(file.fileno())
    except APIStatusError as error:
        if error.status_code != 416 or not start:
            raise
        part.write_bytes(b"")
        _fetch_rest(transport, source, part)


def _range_start(content_range: str | None) -> int | None:
    unit, _, place = (content_range or "").partition(" ")
    first = place.partition("-")[0]
    return int(first) if unit == "bytes" and first.isdecimal() else None


def _find_fault(file: Path, source: Source) -> str | None:
    num_bytes = file.stat().st_size
    if source.num_bytes is not None and num_bytes != source.num_bytes:
        return f"{num_bytes} bytes came, {source.num_bytes} were announced"
    if source.sha256 is not None:
        with file.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != source.sha256.lower():
            return f"its sha256 is {found}, {source.sha256} was announced"
    return None
