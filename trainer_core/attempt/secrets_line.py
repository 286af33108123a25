"""The first line on a process's stdin: the secrets of the job, which no file, argument or environment holds."""

import json
import re
from collections.abc import Mapping

from trainer_core.watchdog import read_stdin_line


def format_secrets(secrets: Mapping[str, str]) -> bytes:
    """Returns the line for a child's stdin, newline included."""
    return json.dumps({"secrets": dict(secrets)}).encode() + b"\n"


def read_secrets() -> dict[str, str]:
    """Reads the line from stdin; empty values are left out. Raises ValueError when it is none."""
    line = read_stdin_line()
    if not line:
        return {}
    fields = json.loads(line)
    if not isinstance(fields, dict) or not isinstance(fields.get("secrets"), dict):
        raise ValueError("the first line on stdin must be a JSON object with the key 'secrets'")
    return {str(name): str(value) for name, value in fields["secrets"].items() if value}


def mask_secret(value: str) -> str:
    """Returns what has the secret's length and signs and none of its letters and digits."""
    return re.sub(r"[^\W_]", "x", value)
