"""Answers of the service as its contract words them."""

JOB_ID = "job-01jd8m3v5xq2c7r9t4w6y8z0ab"


def job(status: str = "running", **fields: object) -> dict[str, object]:
    return {
        "id": JOB_ID,
        "object": "job",
        "status": status,
        "step": "train",
        "steps": [
            {"name": "prepare", "status": "succeeded", "started_at": 2.0, "finished_at": 3.0, "error": None},
            {"name": "train", "status": "running", "started_at": 3.0, "finished_at": None, "error": None},
        ],
        "progress": {
            "global_step": 12,
            "total_steps": 50,
            "epoch": 0.24,
            "loss": 2.5,
            "tokens_per_second": 1234.5,
            "eta_seconds": 65.0,
        },
        "config": {"apply_lora": True, "huggingface_hub_token": None},
        "resources": {"gpus": 1},
        "priority": 0,
        "attempt": 1,
        "failures": 0,
        "error": None,
        "created_at": 1.0,
        "started_at": 2.0,
        "finished_at": None,
        "name": "first",
        "metadata": {"team": "a"},
        **fields,
    }


def event(seq: int, type: str = "progress", **fields: object) -> dict[str, object]:
    return {
        "id": f"evt-{seq}",
        "object": "event",
        "job_id": JOB_ID,
        "seq": seq,
        "attempt": 1,
        "type": type,
        "step": "train",
        "level": "info",
        "message": "",
        "data": {"loss": 3.0 - seq / 10},
        "created_at": float(seq),
        **fields,
    }


def log_line(attempt: int, line: int) -> dict[str, object]:
    name = f"{attempt}-{line}"
    return {"id": name, "object": "job.log_line", "attempt": attempt, "line": line, "text": f"line {name}"}
