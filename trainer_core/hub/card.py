"""The model card: what was trained from what, on what, how and with what result; no secret and no host path."""

import dataclasses
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from trainer_core.config import SCRIPT_ONLY_FIELDS, SECRET_FIELDS, Config, dump_config
from trainer_core.types import JsonValue

CardKind = Literal["adapter", "model", "fused", "quantized"]

_LIBRARIES = ("transformers", "peft", "torch", "tokenizers", "bitsandbytes", "llmcompressor", "compressed-tensors")
_SODA_KEY = "soda"
_HUB_DATASETS = {_SODA_KEY: "allenai/soda"}
_RELATIONS: Mapping[CardKind, str] = {
    "adapter": "adapter",
    "model": "finetune",
    "fused": "finetune",
    "quantized": "quantized",
}
_HEADLINES: Mapping[CardKind, str] = {
    "adapter": "A LoRA adapter for {base}.",
    "model": "{base}, all weights trained.",
    "fused": "{base} with a LoRA adapter merged into it.",
    "quantized": "{base}, quantized.",
}
_LOADING = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{repository}")
model = AutoModelForCausalLM.from_pretrained("{repository}")
```"""
_ADAPTER_LOADING = """```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{repository}")
model = AutoModelForCausalLM.from_pretrained("{base}"{revision})
model = PeftModel.from_pretrained(model, "{repository}")
```"""


@dataclass(frozen=True, slots=True)
class CardSubject:
    """What a card tells of."""

    kind: CardKind
    repository: str
    base_model: str
    """As the user names it."""
    config: Config
    base_revision: str | None = None
    """The commit that the base was loaded at; None for a local folder."""
    facts: Mapping[str, JsonValue] = field(default_factory=dict)
    """Of the step: losses, tokens, seconds, hardware."""
    data_facts: Mapping[str, JsonValue] = field(default_factory=dict)
    """Of the step prepare, empty where it was not this job's."""
    global_step: int | None = None
    """Of a checkpoint in mid-training; None for a result."""


def build_card(subject: CardSubject) -> str:
    """The whole README.md. The same subject gives the same text, so that a repeated push changes nothing."""
    sections = [
        _build_metadata(subject),
        f"# {subject.repository.rpartition('/')[2]}\n\n{_describe_subject(subject)}",
        f"## How to load\n\n{_describe_loading(subject)}",
        f"## Data\n\n{_describe_data(subject)}",
    ]
    if subject.facts:
        sections.append(f"## Results\n\n{_build_table(subject.facts)}")
    sections.append(f"## Config\n\nEvery key that differs from its default.\n\n{_describe_config(subject)}")
    sections.append(f"## Versions\n\n{_build_table(_list_versions())}")
    return "\n\n".join(sections) + "\n"


def name_publicly(path_or_name: str) -> str:
    """A path of this host becomes `local:` and the folder's own name; a repository's name stays."""
    is_path = os.path.isabs(path_or_name) or path_or_name.startswith(("./", "../", "~"))
    return f"local:{Path(path_or_name).name}" if is_path or Path(path_or_name).is_dir() else path_or_name


def _build_metadata(subject: CardSubject) -> str:
    """YAML; its values are written as JSON, which YAML holds."""
    is_adapter = subject.kind == "adapter"
    lines = [
        f"library_name: {'peft' if is_adapter else 'transformers'}",
        "pipeline_tag: text-generation",
        *_list("tags", _list_tags(subject)),
    ]
    if not subject.base_model.startswith("local:"):
        lines = [
            f"base_model: {json.dumps(subject.base_model)}",
            f"base_model_relation: {_RELATIONS[subject.kind]}",
            *lines,
        ]
    if (dataset := _HUB_DATASETS.get(subject.config.dataset_key)) is not None:
        lines += _list("datasets", [dataset])
    return "\n".join(["---", *lines, "---"])


def _list(name: str, values: list[str]) -> list[str]:
    return [f"{name}:", *(f"- {json.dumps(value)}" for value in values)]


def _list_tags(subject: CardSubject) -> list[str]:
    tags = ["finesmith"]
    if subject.kind == "adapter":
        tags.append("lora")
    if subject.kind == "quantized":
        tags.append(subject.config.quantizer_key)
    return tags


def _describe_subject(subject: CardSubject) -> str:
    base = f"`{subject.base_model}`"
    if subject.base_revision is not None:
        base += f" (commit `{subject.base_revision}`)"
    text = _HEADLINES[subject.kind].format(base=base) + " Made with Finesmith."
    if subject.global_step is not None:
        text += f" This is the checkpoint of step {subject.global_step}; the training goes on."
    return text


def _describe_loading(subject: CardSubject) -> str:
    if subject.kind != "adapter":
        return _LOADING.format(repository=subject.repository)
    revision = f', revision="{subject.base_revision}"' if subject.base_revision else ""
    return _ADAPTER_LOADING.format(repository=subject.repository, base=subject.base_model, revision=revision)


def _describe_data(subject: CardSubject) -> str:
    key = subject.config.dataset_key
    # Uploaded rows choose the collator where the Config does not.
    collator = subject.data_facts.get("collator_key", subject.config.collator_key)
    name = f"[`{_HUB_DATASETS[key]}`]" if key in _HUB_DATASETS else "rows of the job's own"
    text = f"{name[:1].upper()}{name[1:]}, read by the data set `{key}` and the collator `{collator}`."
    scalars = dict(_iterate_scalars(subject.data_facts))
    return f"{text}\n\n{_build_table(scalars)}" if scalars else text


def _describe_config(subject: CardSubject) -> str:
    """As `dump_config`, without what names a place on the host or a secret."""
    defaults = _list_defaults(type(subject.config))
    hidden = {*SECRET_FIELDS, *SCRIPT_ONLY_FIELDS, "tokenizer_name_or_path", "deepspeed_config_path"}
    shown: dict[str, JsonValue] = {"model_name_or_path": subject.base_model}
    for name, value in dump_config(subject.config).items():
        if name in hidden or name in shown or (name in defaults and value == defaults[name]):
            continue
        shown[name] = name_publicly(value) if isinstance(value, str) and os.path.isabs(value) else value
    return f"```json\n{json.dumps(shown, indent=2, ensure_ascii=False, default=str)}\n```"


def _list_defaults(config_cls: type[Config]) -> dict[str, object]:
    defaults: dict[str, object] = {}
    for each in dataclasses.fields(config_cls):
        if each.default is not dataclasses.MISSING:
            defaults[each.name] = getattr(each.default, "default", each.default)
        elif each.default_factory is not dataclasses.MISSING:
            defaults[each.name] = each.default_factory()
    return defaults


def _build_table(facts: Mapping[str, JsonValue]) -> str:
    rows = [f"| {name.replace('_', ' ')} | {_format(value)} |" for name, value in _iterate_scalars(facts)]
    return "\n".join(["| what | value |", "|---|---|", *rows])


def _iterate_scalars(facts: Mapping[str, JsonValue]) -> Iterator[tuple[str, JsonValue]]:
    for name, value in facts.items():
        if value is not None and isinstance(value, str | int | float):
            yield name, value


def _format(value: JsonValue) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        text = name_publicly(value) if isinstance(value, str) and os.path.isabs(value) else str(value)
        return text.replace("|", "\\|").replace("\n", " ")
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def _list_versions() -> dict[str, JsonValue]:
    versions: dict[str, JsonValue] = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
