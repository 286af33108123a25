"""Checks of a submitted config that need no database: keys, types, what is for scripts only, names of models."""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import jsonschema
from pydantic import JsonValue

from app.jobs.catalogue import Catalogue, Installation
from app.jobs.errors import Problem
from app.jobs.named_secrets import is_reference
from app.jobs.storable import is_storable_text
from app.settings import Settings
from trainer_core.config import (
    SCRIPT_ONLY_FIELDS,
    SECRET_FIELDS,
    Config,
    ConfigError,
    build_config,
    describe_unknown_key,
    dump_config,
)

REGISTRY_OF_FIELD: Mapping[str, str] = {
    "config_key": "configs",
    "dataset_key": "datasets",
    "collator_key": "collators",
    "trainer_key": "trainers",
    "experiment_key": "experiments",
    "quantizer_key": "quantizers",
}
CONFIG_FIELDS: Mapping[str, Any] = {field.name: field for field in dataclasses.fields(Config)}
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_HUB_DATA = re.compile(rf"{HUB_ID.pattern}(:[\w.-]{{1,96}})?")
_LOCAL_NAME = re.compile(r"local:(?!\.{1,2}$)[^/\\\0]{1,255}")
_MAX_RULE_CHARS = 200
_MODEL_FIELDS = ("model_name_or_path", "tokenizer_name_or_path")


@dataclass(frozen=True, slots=True)
class CheckedConfig:
    """`config` is None when it could not be built; `values` are what may be stored: secrets as None, or by name.

    `secrets` holds both by field: the text of a secret, or `secret:<name>`.
    """

    config: Config | None
    values: Mapping[str, JsonValue]
    secrets: Mapping[str, str]
    problems: tuple[Problem, ...]


def check_config(given: Mapping[str, object], *, installation: Installation, settings: Settings) -> CheckedConfig:
    """Checks a config as it came over HTTP, finding every problem; `param` of each is `config.<key>`."""
    schema = _find_schema(given, installation.catalogue)
    base = {key: value for key, value in given.items() if key in CONFIG_FIELDS}
    extra = {key: value for key, value in given.items() if key not in CONFIG_FIELDS}
    problems = [*_check_extra(extra, schema), *_check_text(given), *_check_script_only(base)]
    reported = {problem.param for problem in problems}
    config: Config | None = None
    try:
        config = build_config(_apply_defaults(base, schema))
    except ConfigError as error:
        found = (Problem(p.message, f"config.{p.param}" if p.param else "config", p.code) for p in error.problems)
        problems += [problem for problem in found if problem.param not in reported]
    effective = _read_fields(config, base)
    problems += [*_check_registry_keys(effective, installation), *_check_names(effective, settings)]
    values: dict[str, JsonValue] = {}
    if config is not None:
        values = {**dump_config(config), **cast(dict[str, JsonValue], extra)}
    secrets = {name: value for name in SECRET_FIELDS if isinstance(value := given.get(name), str) and value}
    if values:
        # A name is no secret: it stays, so that the config can be posted again.
        values |= {name: value for name, value in secrets.items() if is_reference(value)}
    return CheckedConfig(config, values, secrets, tuple(problems))


def _find_schema(given: Mapping[str, object], catalogue: Catalogue) -> Mapping[str, Any]:
    """The JSON Schema of the Config that a plugin registered; empty for the built-in one or an unknown key."""
    key = given.get("config_key", "base")
    schema = catalogue.configs.get(key) if isinstance(key, str) and key != "base" else None
    return schema if isinstance(schema, dict) else {}


def _apply_defaults(base: Mapping[str, object], schema: Mapping[str, Any]) -> dict[str, object]:
    """A plugin's Config may give a built-in key another default."""
    properties = schema.get("properties", {})
    defaults = {key: properties[key]["default"] for key in CONFIG_FIELDS if "default" in properties.get(key, {})}
    return {**defaults, **base}


def _check_extra(extra: Mapping[str, object], schema: Mapping[str, Any]) -> Iterator[Problem]:
    properties = schema.get("properties", {})
    for key, value in extra.items():
        if key not in properties:
            known = sorted({*CONFIG_FIELDS, *properties})
            yield Problem(describe_unknown_key(key, known=known, where="Config"), f"config.{key}", "unknown_key")
            continue
        checked = {**properties[key], "$defs": schema.get("$defs", {})}
        for error in jsonschema.Draft202012Validator(checked).iter_errors(value):
            # The error's own text repeats the value, which a plugin may hold to be secret.
            rule = f"{error.validator}={error.validator_value!r}"[:_MAX_RULE_CHARS]
            yield Problem(f"{key}: does not satisfy {rule}", f"config.{key}", "invalid_value")


def _check_text(given: Mapping[str, object]) -> Iterator[Problem]:
    for key, value in given.items():
        texts = value if isinstance(value, list) else [value]
        if not all(is_storable_text(text) for text in [key, *texts] if isinstance(text, str)):
            message = "contains a NUL character or half of a surrogate pair"
            yield Problem(f"{key!a}: {message}", f"config.{key.encode('ascii', 'replace').decode()}", "invalid_value")


def _check_script_only(base: Mapping[str, object]) -> Iterator[Problem]:
    for name, instead in SCRIPT_ONLY_FIELDS.items():
        if name in base and base[name] != CONFIG_FIELDS[name].default:
            message = f"{name} is for scripts; over HTTP leave it out: {instead}"
            yield Problem(message, f"config.{name}", "script_only")


def _read_fields(config: Config | None, base: Mapping[str, object]) -> Mapping[str, Any]:
    """All fields; of a config that cannot be built those that have at least the right type, else the default."""
    if config is not None:
        return {name: getattr(config, name) for name in CONFIG_FIELDS}
    given = {name: value for name, value in base.items() if isinstance(value, str | bool)}
    return {name: given.get(name, field.default) for name, field in CONFIG_FIELDS.items()}


def _check_registry_keys(fields: Mapping[str, Any], installation: Installation) -> Iterator[Problem]:
    failed = [f"the plugin {error.plugin!r} failed: {error.message}" for error in installation.plugin_errors]
    for name, registry in REGISTRY_OF_FIELD.items():
        key, known = fields[name], installation.catalogue.registries.get(registry, ())
        # Another type is told already.
        if isinstance(key, str) and key not in known:
            unknown = describe_unknown_key(key, known=list(known), where=f"{name}: {registry}_registry")
            message = "; ".join([unknown, *failed])
            yield Problem(message, f"config.{name}", "unknown_key")


def _check_names(fields: Mapping[str, Any], settings: Settings) -> Iterator[Problem]:
    for name in _MODEL_FIELDS:
        value = fields[name]
        if isinstance(value, str) and (message := _find_fault_of_model(value, settings.model_root)):
            yield Problem(f"{name}: {message}", f"config.{name}", "model_not_found")
    adapter = fields["lora_hub_model_id"]
    if isinstance(adapter, str) and not HUB_ID.fullmatch(adapter):
        message = f"lora_hub_model_id: {adapter!r} is not of the form owner/name"
        yield Problem(message, "config.lora_hub_model_id", "invalid_value")
    calibration = fields["quantization_dataset_id"]
    if isinstance(calibration, str) and not (calibration.startswith("file-") or _HUB_DATA.fullmatch(calibration)):
        message = (
            f"quantization_dataset_id: {calibration!r} is neither a file's id nor owner/name on the Hub; upload the"
            " rows to /v1/files"
        )
        yield Problem(message, "config.quantization_dataset_id", "invalid_value")
    deepspeed = fields["deepspeed_config_path"]
    if isinstance(deepspeed, str) and (fault := _find_fault_of_local_file(deepspeed, settings.config_root)):
        yield Problem(f"deepspeed_config_path: {fault}", "config.deepspeed_config_path", "file_not_found")
    if fields["trust_remote_code"] is True:
        yield from _check_trusted_code(fields, settings)


def _check_trusted_code(fields: Mapping[str, Any], settings: Settings) -> Iterator[Problem]:
    model, tokenizer = fields["model_name_or_path"], fields["tokenizer_name_or_path"]
    is_listed = f"{model}@{fields['model_revision']}" in settings.trusted_model_code
    if not (is_listed and HUB_ID.fullmatch(model)):
        message = (
            "trust_remote_code: an administrator has to list the model as owner/name@<commit sha> in"
            " FINESMITH_TRUSTED_MODEL_CODE, and model_revision has to be that sha"
        )
        yield Problem(message, "config.trust_remote_code", "forbidden")
    if tokenizer not in (None, model):
        message = (
            "tokenizer_name_or_path: with trust_remote_code it would run code of a repository that nobody has listed;"
            " leave it out to use the model's own tokenizer"
        )
        yield Problem(message, "config.tokenizer_name_or_path", "forbidden")


def _find_fault_of_local_file(value: str, config_root: Path | None) -> str | None:
    if not _LOCAL_NAME.fullmatch(value):
        return f"{value!r} does not read local:<name>, a file below the installation's folder of configurations"
    if config_root is None:
        return f"{value!r}: this installation has no folder of configurations (FINESMITH_CONFIG_ROOT)"
    # As with models: a worker on another host may have the folder where this one does not.
    if config_root.is_dir() and not (config_root / value.removeprefix("local:")).is_file():
        return f"{value!r}: there is no such file below FINESMITH_CONFIG_ROOT"
    return None


def _find_fault_of_model(value: str, model_root: Path | None) -> str | None:
    if HUB_ID.fullmatch(value):
        return None
    if not _LOCAL_NAME.fullmatch(value):
        return f"{value!r} is neither owner/name on the Hub nor local:<name> below the installation's model folder"
    if model_root is None:
        return f"{value!r}: this installation has no folder of local models (FINESMITH_MODEL_ROOT)"
    # A worker on another host may have the folder where this one does not; it checks again.
    if not model_root.is_dir():
        return None
    folder = model_root / value.removeprefix("local:")
    if not folder.is_dir():
        return f"{value!r}: there is no such folder below FINESMITH_MODEL_ROOT"
    # A tokenizer's folder has no config.json of a model.
    if not any((folder / name).is_file() for name in ("config.json", "tokenizer.json", "tokenizer_config.json")):
        return f"{value!r}: the folder below FINESMITH_MODEL_ROOT holds neither a model nor a tokenizer"
    return None
