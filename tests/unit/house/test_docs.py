"""The pages that say what the code does agree with it."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

from trainer_core.config import build_config_schema
from trainer_core.config.checks import FIXED

ROOT = Path(__file__).parents[3]
DOCUMENTED_KEYS = json.loads((ROOT / "tests" / "golden" / "documented_config.json").read_text())
"""X-LLM's documented keys: default, type, and the step or part that reads each."""
STATES = {"holds", "better", "differs"}
JSON_TYPES = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}
PROPERTIES = build_config_schema()["properties"]


def _parity_rows() -> list[list[str]]:
    lines = (ROOT / "docs" / "xllm-parity.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("| `")]
    return [row for row in rows if row[0] != "promise"]


def _state_of(key: str) -> str:
    return next(row[1] for row in _parity_rows() if row[0] == f"`{key}`")


@pytest.mark.parametrize("name", ["write_settings", "write_config"])
def test_a_written_page_says_what_the_code_says(name: str) -> None:
    specification = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    assert module.PAGE.read_text() == module.render(), f"run: python docs/{name}.py"


@pytest.mark.parametrize("key", sorted(DOCUMENTED_KEYS))
def test_every_documented_key_has_a_parity_row(key: str) -> None:
    assert [row[0] for row in _parity_rows()].count(f"`{key}`") == 1


@pytest.mark.parametrize("key", sorted(DOCUMENTED_KEYS))
def test_a_documented_key_has_its_documented_default_and_type_or_says_that_it_differs(key: str) -> None:
    documented = DOCUMENTED_KEYS[key]
    inner = documented["type"].removeprefix("Optional[").removesuffix("]")
    taken = {each.get("type") for each in PROPERTIES[key].get("anyOf", [PROPERTIES[key]])}
    is_nullable = documented["type"].startswith("Optional")
    agrees = (
        PROPERTIES[key]["default"] == documented["default"]
        and JSON_TYPES[inner] in taken
        and (not is_nullable or "null" in taken)
    )
    assert agrees or _state_of(key) == "differs"


def test_every_parity_row_has_a_state_a_reason_where_due_and_a_test() -> None:
    for promise, state, why, test in _parity_rows():
        assert state in STATES, promise
        assert why or state == "holds", promise
        paths = re.findall(r"`(tests/[^`:]+)", test)
        assert paths, promise
        assert [path for path in paths if not (ROOT / path).exists()] == [], promise


@pytest.mark.parametrize("key", sorted(set(FIXED) & set(DOCUMENTED_KEYS)))
def test_a_fixed_key_says_so_in_the_parity_table(key: str) -> None:
    assert _state_of(key) == "differs"


def test_links_between_pages_lead_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md"), ROOT / "client/README.md"]
    broken = [
        (page.name, link)
        for page in pages
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text())
        if not (page.parent / link).exists()
    ]
    assert broken == []
