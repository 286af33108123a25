"""Writes docs/config.md from the Config class: `python docs/write_config.py`."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainer_core.config import SCRIPT_ONLY_FIELDS, SECRET_FIELDS, build_config_schema
from trainer_core.config import fields as config_fields

PAGE = Path(__file__).with_name("config.md")
HEAD = """# Config

One Config for all steps: in a job's `config` over HTTP, as `Config(...)` in a script, as `--key value` on a command
line. An unknown key is an error that names the nearest. The same as JSON Schema: `GET /v1/config/schema`. This page is
written from `trainer_core/config/fields.py` by `python docs/write_config.py`.

"""
TABLE_HEAD = ("", "| key | default | type | meaning |", "|---|---|---|---|")
_HEADING = re.compile(r"^    # (.+)$")
_FIELD = re.compile(r"^    (\w+): ")


def render() -> str:
    """The page as Markdown: a table for each group of keys."""
    properties = build_config_schema()["properties"]
    parts = [HEAD.rstrip("\n")]
    for heading, names in _iterate_groups(Path(str(config_fields.__file__)).read_text()):
        rows = [_render_row(name, properties[name]) for name in names if name in properties]
        parts.append("\n".join([f"## {heading[:1].upper()}{heading[1:]}", *TABLE_HEAD, *rows]))
    return "\n\n".join(parts) + "\n"


def _iterate_groups(source: str) -> Iterator[tuple[str, list[str]]]:
    """The comments of the class body are the headings; properties and methods follow the last field."""
    heading, names = "", []
    for line in source.partition("class Config:")[2].partition("    @model_validator")[0].splitlines():
        if found := _HEADING.match(line):
            if names:
                yield heading, names
            heading, names = found[1], []
        elif found := _FIELD.match(line):
            names.append(found[1])
    yield heading, names


def _render_row(name: str, schema: dict[str, Any]) -> str:
    default = json.dumps(schema["default"]) if "default" in schema else "[]"
    meaning = " ".join(schema["description"].split())
    if name in SECRET_FIELDS and "write-only" not in meaning:
        meaning += " Write-only over HTTP."
    if name in SCRIPT_ONLY_FIELDS and "for scripts" not in meaning.lower():
        meaning += " For scripts only."
    return f"| `{name}` | `{default}` | {_describe_type(schema)} | {meaning.replace('|', chr(92) + '|')} |"


def _describe_type(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_describe_type(each) for each in schema["anyOf"]))
    if "enum" in schema:
        return ", ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    kind = str(schema.get("type", "any"))
    bounds = [
        f"{sign} {schema[name]:g}"
        for name, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
        if name in schema and abs(schema[name]) < config_fields.LARGEST_COUNT
    ]
    return " ".join([kind, *bounds])


if __name__ == "__main__":
    PAGE.write_text(render())
