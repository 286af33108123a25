"""Puts a job's progress into words."""

from finesmith.models.job import Job


def describe_place(job: Job) -> str:
    """Where the job stands: its status, and the step while it has one."""
    return f"{job.status} {job.step}" if job.step and not job.is_finished else job.status


def describe_training(job: Job) -> str:
    """Step, loss, tokens/s and time left, as far as they are known; empty before training reports."""
    progress = job.progress
    parts = []
    if progress.global_step is not None:
        total = f"/{progress.total_steps}" if progress.total_steps is not None else ""
        parts.append(f"step {progress.global_step}{total}")
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.4f}")
    if progress.tokens_per_second is not None:
        parts.append(f"{progress.tokens_per_second:,.0f} tokens/s")
    if progress.eta_seconds is not None and not job.is_finished:
        parts.append(f"ETA {format_duration(progress.eta_seconds)}")
    return "  ".join(parts)


def format_duration(seconds: float) -> str:
    """`45s`, `3m 05s` or `2h 07m`."""
    whole = max(int(seconds + 0.5), 0)
    hours, minutes = whole // 3600, whole // 60 % 60
    if hours:
        return f"{hours}h {minutes:02d}m"
    return f"{minutes}m {whole % 60:02d}s" if minutes else f"{whole}s"
