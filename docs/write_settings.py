"""Writes docs/settings.md from the Settings class: `python docs/write_settings.py`."""

from pathlib import Path

from pydantic import SecretStr

from app.settings import Settings

PAGE = Path(__file__).with_name("settings.md")
HEAD = """# Settings

Every setting is an environment variable, read when a process starts. This page is written from `app/settings.py` by
`python docs/write_settings.py`.

| variable | default | meaning |
|---|---|---|
"""


def render() -> str:
    """The page as Markdown."""
    rows = []
    for name, field in Settings.model_fields.items():
        default = "(empty)" if isinstance(field.default, SecretStr) else repr(field.default)
        rows.append(f"| `FINESMITH_{name.upper()}` | `{_show(default)}` | {field.description} |")
    return HEAD + "\n".join(rows) + "\n"


def _show(default: str) -> str:
    return "(empty)" if default in ("''", "()") else default.removeprefix("PosixPath('").removesuffix("')").strip("'")


if __name__ == "__main__":
    PAGE.write_text(render())
