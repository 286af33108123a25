"""The demo's rows: what is trained on, what is held out, and one question to ask the models."""

import json
from dataclasses import dataclass
from pathlib import Path

HELD_OUT_EVERY = 10
MAX_HELD_OUT_ROWS = 100


@dataclass(frozen=True)
class DemoRows:
    """Two files and a question."""

    training: Path
    validation: Path
    """Rows that no training sees."""
    question: list[dict[str, str]] | str
    """The first held-out conversation up to its first answer, or the beginning of a text."""


def split_rows(source: Path, folder: Path) -> DemoRows:
    """Writes every tenth row, at most a hundred, to `validation.jsonl`, the others to `training.jsonl`.

    Raises SystemExit for a file of fewer than two rows.
    """
    lines = [line for line in source.read_text(encoding="utf-8").splitlines() if line.strip()]
    if len(lines) < 2:
        raise SystemExit(f"{source} has {len(lines)} rows; the demo needs one to train on and one to hold out")
    every = min(HELD_OUT_EVERY, len(lines))
    held_out = set(range(0, len(lines), every)[:MAX_HELD_OUT_ROWS])
    folder.mkdir(parents=True, exist_ok=True)
    training, validation = folder / "training.jsonl", folder / "validation.jsonl"
    training.write_text("".join(f"{line}\n" for i, line in enumerate(lines) if i not in held_out), encoding="utf-8")
    validation.write_text("".join(f"{line}\n" for i, line in enumerate(lines) if i in held_out), encoding="utf-8")
    return DemoRows(training=training, validation=validation, question=_choose_question(json.loads(lines[0])))


def _choose_question(row: dict[str, object]) -> list[dict[str, str]] | str:
    messages = row.get("messages")
    if isinstance(messages, list):
        answers = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
        return messages[: answers[0]]
    parts = row.get("text_parts")
    text = parts[0] if isinstance(parts, list) else row.get("text", "")
    return " ".join(str(text).split()[:12])
