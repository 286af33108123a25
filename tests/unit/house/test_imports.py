"""What a fresh interpreter loads: the API and the worker stay light."""

import subprocess
import sys

import pytest

HEAVY = (
    "torch",
    "transformers",
    "peft",
    "trl",
    "accelerate",
    "deepspeed",
    "datasets",
    "bitsandbytes",
    "llmcompressor",
    "numpy",
)
SERVER = ("fastapi", "celery", "sqlalchemy", "redis", "app", "worker")


def _loaded_after(statement: str, candidates: tuple[str, ...]) -> list[str]:
    code = f"{statement}\nimport sys\nprint([name for name in {candidates!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [name for name in candidates if repr(name) in result.stdout]


@pytest.mark.parametrize(
    "module",
    [
        "app.main",
        "app.cli",
        "app.embedded",
        "worker.celery_app",
        "worker.supervisor",
        "trainer_core",
        "trainer_core.pipeline",
        "trainer_core.catalogue",
        "trainer_core.context",
    ],
)
def test_the_light_side_loads_nothing_heavy(module: str) -> None:
    assert _loaded_after(f"import {module}", HEAVY) == []


def test_listing_the_catalogue_loads_nothing_heavy() -> None:
    statement = "from trainer_core.catalogue import build_catalogue; build_catalogue()"
    assert _loaded_after(statement, HEAVY) == []


def test_the_trainer_loads_nothing_of_the_service() -> None:
    statement = "import trainer_core.cli, trainer_core.steps.train, trainer_core.pipeline, trainer_core.step_main"
    # torch itself imports redis where it is installed; the import rules hold our own code to it.
    assert _loaded_after(statement, tuple(name for name in SERVER if name != "redis")) == []


def test_the_sdk_loads_nothing_of_the_server() -> None:
    assert _loaded_after("import finesmith", (*HEAVY, *SERVER, "trainer_core", "rich", "pydantic")) == []


def test_the_check_can_fail() -> None:
    assert _loaded_after("import numpy", HEAVY) == ["numpy"]
