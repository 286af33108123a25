"""Renders one preview on this host: brings its rows, runs the process, reads what it wrote."""

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.jobs.views import FileRef, JobError
from app.previews.views import PreviewClaim
from app.settings import Settings
from app.storage import CHUNK_BYTES, DamagedContent, Storage, Written
from trainer_core.beneath import open_beneath, read_beneath
from trainer_core.errors import StepInputError, TrainerError
from trainer_core.redaction import Redactor
from worker.cage import build_preview_cage, protect_data_folder
from worker.environment import build_pipeline_environment
from worker.owners import make_owner_folder
from worker.preview_process import PREVIEW_ENTRY, PreviewProcess
from worker.staging import InputDamagedError, find_public_names, resolve_local_names

logger = logging.getLogger(__name__)

TIME_LIMIT_SECONDS = 120.0
COUNT_SECONDS = 60.0
"""Of a large file as many rows are counted as this allows."""
MAX_ROWS_BYTES = 256 << 20
"""As much of a file is looked at; the rest is not brought here."""
MAX_ANSWER_BYTES = 32 << 20
_MAX_SHOWN_BYTES = 4096
_POLL_SECONDS = 0.1
_FOLDER = "previews"
_LEFTOVER_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Rendered:
    """What came of a preview: one of the two."""

    result: dict[str, Any] | None = None
    error: JobError | None = None


class PreviewRenderer:
    """Renders previews one after the other, each in a folder that is gone afterwards."""

    def __init__(self, settings: Settings, *, start_folder: Path, entry: Sequence[str] = PREVIEW_ENTRY) -> None:
        self._settings = settings
        self._start_folder = start_folder
        self._entry = entry
        self._root = settings.data_dir / _FOLDER
        self._storage: Storage | None = None

    def render(self, claim: PreviewClaim, *, check: Callable[[], None]) -> Rendered:
        """Renders the preview; `check` is called often, and raises to give up: the process is gone then."""
        folder = self._root / f"{claim.preview_id}.{claim.attempt}"
        folder.mkdir(parents=True)
        try:
            return self._render_in(folder, claim, check)
        except TrainerError as error:
            return Rendered(error=JobError(error.code, error.message, param=error.param))
        except OSError as error:
            return Rendered(error=JobError("host_error", f"the host failed: {error.strerror or error}"))
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def remove_leftovers(self) -> None:
        """Removes the folders of workers that were killed."""
        for folder in self._root.glob("preview-*"):
            try:
                is_old = time.time() - folder.stat().st_mtime > _LEFTOVER_SECONDS
            except OSError:
                continue
            if is_old:
                shutil.rmtree(folder, ignore_errors=True)

    def _render_in(self, folder: Path, claim: PreviewClaim, check: Callable[[], None]) -> Rendered:
        config = resolve_local_names(claim.config, self._settings)
        rows = folder / f"{claim.file.id}.jsonl"
        is_whole = self._bring_rows(claim.file, rows)
        public_names = {**find_public_names(config, given=claim.config), f"{folder}/": "", str(folder): "preview"}
        request = {
            "config": config,
            "rows": str(rows),
            "num_samples": claim.num_samples,
            "max_seconds": COUNT_SECONDS,
            "plugins": self._settings.plugins,
            "public_names": public_names,
        }
        (folder / "preview.json").write_text(json.dumps(request))
        status = self._run(folder, claim, check)
        redactor = Redactor(tuple(claim.secrets.values()), public_names=public_names)
        rendered = _read_answer(folder, status, redactor)
        if rendered.error is not None:
            output = redactor.redact_text(_read_end(folder / "output.log"))
            logger.warning("%s: %s; it printed: %s", claim.preview_id, rendered.error.message, output)
        if rendered.result is not None and not is_whole:
            rendered.result["num_rows"] = claim.num_rows
        return rendered

    def _bring_rows(self, file: FileRef, path: Path) -> bool:
        """Copies the file's first whole lines; returns whether these are all. Raises TrainerError, OSError."""
        if file.num_bytes > MAX_ROWS_BYTES:
            return self._bring_first_rows(file, path)
        try:
            self._open_storage().fetch_file(file.storage_key, path, expected=Written(file.num_bytes, file.sha256))
        except FileNotFoundError as error:
            raise _gone(file) from error
        except DamagedContent as error:
            raise InputDamagedError(f"file: {file.id} is damaged in storage; upload it again", param="file") from error
        return True

    def _open_storage(self) -> Storage:
        """At first use: its connections must not cross the forks of the pool's processes."""
        if self._storage is None:
            self._storage = Storage.of(self._settings)
        return self._storage

    def _bring_first_rows(self, file: FileRef, path: Path) -> bool:
        try:
            with path.open("wb") as rows:
                for chunk in self._open_storage().read_range(file.storage_key, 0, MAX_ROWS_BYTES):
                    rows.write(chunk)
        except FileNotFoundError as error:
            raise _gone(file) from error
        num_bytes = _find_last_line_end(path)
        if num_bytes == 0:
            message = f"file: the first row of {file.id} is longer than {MAX_ROWS_BYTES} bytes"
            raise StepInputError(message, param="file")
        os.truncate(path, num_bytes)
        return False

    def _run(self, folder: Path, claim: PreviewClaim, check: Callable[[], None]) -> int | None:
        """Returns the exit status, None when the time was over."""
        protect_data_folder(self._settings)
        owner = make_owner_folder(self._settings, claim.owner)
        env = build_pipeline_environment(
            os.environ,
            gpus=(),
            start_folder=self._start_folder,
            owner=owner,
            shared_hub_cache=self._settings.shared_hub_cache,
        )
        with owner.hold():
            process = PreviewProcess(
                folder,
                env={**env, "OMP_NUM_THREADS": "1"},
                secrets=claim.secrets,
                cage=build_preview_cage(self._settings),
                entry=self._entry,
            )
            deadline = time.monotonic() + TIME_LIMIT_SECONDS
            try:
                while (status := process.wait(_POLL_SECONDS)) is None and time.monotonic() < deadline:
                    check()
                return status
            finally:
                process.close()


def _gone(file: FileRef) -> StepInputError:
    return StepInputError(f"file: {file.id} is no longer in storage", param="file")


def _find_last_line_end(path: Path) -> int:
    """How many bytes the whole lines at the beginning of a file have."""
    with path.open("rb") as file:
        position = file.seek(0, os.SEEK_END)
        while position > 0:
            start = max(0, position - CHUNK_BYTES)
            file.seek(start)
            found = file.read(position - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            position = start
    return 0


def _read_end(path: Path) -> str:
    try:
        with open_beneath(path.parent, path.name) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _MAX_SHOWN_BYTES))
            return file.read().decode(errors="replace").strip()
    except (OSError, ValueError) as error:
        return f"nothing that can be read: {error}"


def _read_answer(folder: Path, status: int | None, redactor: Redactor) -> Rendered:
    if status is None:
        message = f"rendering took longer than {TIME_LIMIT_SECONDS:.0f} s; ask for fewer samples with n"
        return Rendered(error=JobError("preview_timeout", message, param="n"))
    answer = _read_object(folder / ("result.json" if status == 0 else "error.json"))
    if answer is None:
        how = f"signal {-status}" if status < 0 else f"status {status}"
        return Rendered(error=JobError("preview_failed", f"the process that rendered the preview ended with {how}"))
    if status == 0:
        return Rendered(result=answer)
    param = answer.get("param")
    message = redactor.redact_text(str(answer.get("message")))
    return Rendered(error=JobError(str(answer.get("code")), message, param=None if param is None else str(param)))


def _read_object(path: Path) -> dict[str, Any] | None:
    try:
        answer = json.loads(read_beneath(path.parent, path.name, max_bytes=MAX_ANSWER_BYTES).decode())
    except (OSError, ValueError):
        return None
    return answer if isinstance(answer, dict) else None
