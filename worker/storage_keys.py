"""Where a job's things lie in storage: below the attempt that wrote them, so that a stale one harms nobody's.

Attempt 0 stands for what releases before this layout wrote, without an attempt in the key.
"""

from collections.abc import Sequence

from trainer_core.enums import Step


def artifact_key(job_id: str, attempt: int, name: str, path: str) -> str:
    """A published file of the artifact folder `name`."""
    return f"{_kind_prefix(job_id, 'artifacts', attempt)}/{name}/{path}"


def marker_key(job_id: str, attempt: int, step: Step) -> str:
    """The done marker of a step: there once all that the step made is published."""
    return f"{_kind_prefix(job_id, 'steps', attempt)}/{step}.json"


def markers_prefix(job_id: str) -> str:
    """The done markers of all attempts."""
    return f"jobs/{job_id}/steps"


def list_marker_attempts(job_id: str, keys: Sequence[str], step: Step) -> list[int]:
    """The attempts that have a marker of the step among these keys, newest first."""
    return sorted((attempt for key in keys for attempt in _find_attempt(job_id, key, step)), reverse=True)


def checkpoints_prefix(job_id: str) -> str:
    """The checkpoints of all attempts."""
    return f"jobs/{job_id}/checkpoints"


def checkpoint_prefix(job_id: str, attempt: int, checkpoint: str) -> str:
    """The files of the checkpoint whose folder is named `checkpoint`."""
    return f"{_kind_prefix(job_id, 'checkpoints', attempt)}/{checkpoint}"


def checkpoint_file_key(job_id: str, attempt: int, checkpoint: str, path: str) -> str:
    """A file of a checkpoint."""
    return f"{checkpoint_prefix(job_id, attempt, checkpoint)}/{path}"


def checkpoint_manifest_key(job_id: str, attempt: int, checkpoint: str) -> str:
    """The list of a checkpoint's files: there once all of them are."""
    return f"{checkpoint_prefix(job_id, attempt, checkpoint)}.json"


def log_key(job_id: str, attempt: int, first_line: int) -> str:
    """A chunk of an attempt's log."""
    return f"jobs/{job_id}/logs/{attempt}/{first_line}.log"


def _kind_prefix(job_id: str, kind: str, attempt: int) -> str:
    return f"jobs/{job_id}/{kind}/{attempt}" if attempt else f"jobs/{job_id}/{kind}"


def _find_attempt(job_id: str, key: str, step: Step) -> Sequence[int]:
    middle = key.removeprefix(f"{markers_prefix(job_id)}/").removesuffix(f"{step}.json").rstrip("/")
    if not key.endswith(f"/{step}.json") or not (middle == "" or middle.isdecimal()):
        return ()
    return (int(middle or 0),)
