"""Where a job's things lie in storage."""

from trainer_core.enums import Step


def artifact_key(job_id: str, name: str, path: str) -> str:
    """A published file of the artifact folder `name`."""
    return f"jobs/{job_id}/artifacts/{name}/{path}"


def marker_key(job_id: str, step: Step) -> str:
    """The done marker of a step: there once all that the step made is published."""
    return f"jobs/{job_id}/steps/{step}.json"


def checkpoint_prefix(job_id: str) -> str:
    """All checkpoints."""
    return f"jobs/{job_id}/checkpoints"


def checkpoint_file_key(job_id: str, checkpoint: str, path: str) -> str:
    """A file of the checkpoint whose folder is named `checkpoint`."""
    return f"{checkpoint_prefix(job_id)}/{checkpoint}/{path}"


def checkpoint_manifest_key(job_id: str, checkpoint: str) -> str:
    """The list of a checkpoint's files: there once all of them are."""
    return f"{checkpoint_prefix(job_id)}/{checkpoint}.json"


def log_key(job_id: str, attempt: int, first_line: int) -> str:
    """A chunk of an attempt's log."""
    return f"jobs/{job_id}/logs/{attempt}/{first_line}.log"
