"""Fetching of what the steps read from a hub into local folders, so that the steps themselves load offline.

Imports huggingface_hub and nothing heavier. HF_ENDPOINT and HF_HOME say where the hub and its cache are; they
must be set before this process starts.
"""

import importlib
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from trainer_core.config import Config, Step
from trainer_core.errors import ModelLoadError, NetworkError, TrainerError
from trainer_core.job_spec import StepInputs
from trainer_core.shared_cache import find_shared_hub_cache

REPOSITORY_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
TOKENIZER_PATTERNS = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken")
MODEL_PATTERNS = (*TOKENIZER_PATTERNS, "*.safetensors")
ADAPTER_PATTERNS = ("adapter_config.json", "adapter_model*.safetensors", "adapter_model*.json")
IGNORED_PATTERNS = ("*/*", "consolidated*")
"""Other formats lie in folders (onnx, original) or repeat the weights."""

_PAUSES_SECONDS = (1.0, 5.0)
"""Between tries of a hub that is busy; the client itself repeats what breaks off in mid-file."""


@dataclass(frozen=True, slots=True)
class StagedInputs:
    """Local folders, None for what is not needed."""

    model: str | None = None
    tokenizer: str | None = None
    """None: the model's folder holds the tokenizer."""
    adapter: str | None = None
    calibration: str | None = None
    """A file: the rows of `quantization_dataset_id`."""
    revisions: Mapping[str, str] = field(default_factory=dict)
    """The commit of each repository that lies in the hub's cache."""


@dataclass(frozen=True, slots=True)
class _Source:
    """One thing to make local."""

    name: str
    param: str
    """The Config's key that names it."""
    patterns: tuple[str, ...]
    required_patterns: tuple[str, ...] = ()
    """A file of each must be there in the end."""
    revision: str | None = None


def stage_hub_inputs(config: Config, steps: Sequence[Step], *, inputs: StepInputs | None = None) -> StagedInputs:
    """Fetches what these steps read from a hub, each repository at the one commit that is then loaded everywhere.

    A name of a local folder stays that folder. Weights are safetensors, in one file or sharded; nothing else is
    fetched. What `inputs` bring is not fetched. A repository that is cached is used when the hub does not answer.
    Raises ModelLoadError and StepInputError naming the option, NetworkError, and OSError for a full disk.
    """
    inputs = inputs or StepInputs()
    model = tokenizer = adapter = None
    if _needs_model(steps, inputs):
        model = _stage(_describe_model(config), config)
    if config.tokenizer_name_or_path == config.model_name_or_path:
        tokenizer = model
    elif config.tokenizer_name_or_path is not None:
        patterns = _with_code(TOKENIZER_PATTERNS, config)
        tokenizer = _stage(_Source(config.tokenizer_name_or_path, "tokenizer_name_or_path", patterns), config)
    adapter_source = _describe_adapter(config, steps, inputs)
    if adapter_source is not None:
        adapter = _stage(adapter_source, config)
    folders = [Path(folder) for folder in (model, tokenizer, adapter) if folder is not None]
    return StagedInputs(
        model=model,
        tokenizer=tokenizer,
        adapter=adapter,
        calibration=_stage_calibration(config, steps, inputs),
        revisions=_read_revisions(folders),
    )


def stage_tokenizer(config: Config) -> str:
    """The local folder of the tokenizer alone, fetched where it lies on a hub, without weights.

    A folder stays that folder. Raises ModelLoadError naming the option, NetworkError, and OSError for a full disk.
    """
    patterns = _with_code(TOKENIZER_PATTERNS, config)
    name = config.tokenizer_name_or_path
    if name is not None and name != config.model_name_or_path:
        return _stage(_Source(name, "tokenizer_name_or_path", patterns), config)
    source = _Source(config.model_name_or_path, "model_name_or_path", patterns, revision=config.model_revision)
    return _stage(source, config)


def _stage_calibration(config: Config, steps: Sequence[Step], inputs: StepInputs) -> str | None:
    name = config.quantization_dataset_id
    if Step.QUANTIZE not in steps or inputs.calibration_file is not None or name is None or Path(name).is_file():
        return None
    # By name: it comes with the library of data sets, which processes that only know this module must not load.
    source = importlib.import_module("trainer_core.quantizers.calibration_source")
    max_rows = config.quantization_max_samples or None
    return str(source.fetch_hub_rows(name, token=config.huggingface_hub_token, max_rows=max_rows))


def _needs_model(steps: Sequence[Step], inputs: StepInputs) -> bool:
    return set(steps) != {Step.QUANTIZE} or inputs.model is None


def _describe_model(config: Config) -> _Source:
    return _Source(
        name=config.model_name_or_path,
        param="model_name_or_path",
        patterns=_with_code(MODEL_PATTERNS, config),
        required_patterns=("config.json", "*.safetensors"),
        revision=config.model_revision,
    )


def _describe_adapter(config: Config, steps: Sequence[Step], inputs: StepInputs) -> _Source | None:
    if Step.FUSE not in steps or Step.TRAIN in steps or inputs.adapter is not None:
        return None
    for param in ("lora_model_local_path", "lora_hub_model_id"):
        name: str | None = getattr(config, param)
        if name is not None:
            return _Source(name, param, ADAPTER_PATTERNS, ("adapter_config.json", "adapter_model*.safetensors"))
    return None


def _with_code(patterns: tuple[str, ...], config: Config) -> tuple[str, ...]:
    return (*patterns, "*.py") if config.trust_remote_code else patterns


def _stage(source: _Source, config: Config) -> str:
    if Path(source.name).is_dir():
        folder = str(Path(source.name).resolve())
    elif REPOSITORY_NAME.fullmatch(source.name):
        folder = _download(source, token=config.huggingface_hub_token)
    else:
        raise ModelLoadError(
            f"{source.param}: there is no folder {source.name!r}, and a repository's name reads owner/name",
            param=source.param,
        )
    for pattern in source.required_patterns:
        if next(Path(folder).glob(pattern), None) is None:
            raise ModelLoadError(_describe_missing(source, pattern), param=source.param)
    return folder


def _download(source: _Source, *, token: str | None) -> str:
    for pause in (*_PAUSES_SECONDS, None):
        try:
            commit = _check_readable(source, token=token)
            if (shared := _find_shared(source, commit)) is not None:
                return shared
            folder: str = snapshot_download(
                source.name,
                revision=source.revision,
                allow_patterns=list(source.patterns),
                ignore_patterns=list(IGNORED_PATTERNS),
                token=token,
            )
            return folder
        except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError, httpx.HTTPError, RuntimeError) as error:
            if pause is None or not _may_pass(error):
                raise _translate(error, source) from error
            time.sleep(pause)
    raise AssertionError("the last try returns or raises")


def _find_shared(source: _Source, commit: str | None) -> str | None:
    """The folder of this very commit in the cache that an administrator shares among all owners."""
    cache = find_shared_hub_cache()
    if cache is None or commit is None:
        return None
    folder = cache / f"models--{source.name.replace('/', '--')}" / "snapshots" / commit
    has_all = all(next(folder.glob(pattern), None) is not None for pattern in source.required_patterns)
    return str(folder) if folder.is_dir() and has_all else None


def _check_readable(source: _Source, *, token: str | None) -> str | None:
    """Returns the commit, None without an answer; raises what the hub answers to whoever may not read the repository.

    The client alone would hand out what lies in the cache, where another token, of another user, has brought it.
    """
    try:
        return HfApi().model_info(source.name, revision=source.revision, token=token).sha
    except HfHubHTTPError as error:
        if not _is_transient(error.response.status_code):
            raise
    except (httpx.HTTPError, OfflineModeIsEnabled):
        # No answer at all: then the cache has to do.
        return None
    return None


def _may_pass(error: Exception) -> bool:
    """Whether the hub answered that it is busy or ill, or broke off; one that is not there at all stays away longer."""
    answer = _find_answer(error)
    if answer is not None:
        return _is_transient(answer.response.status_code)
    return isinstance(error, RuntimeError | httpx.ReadError | httpx.RemoteProtocolError | httpx.TimeoutException)


def _translate(error: Exception, source: _Source) -> TrainerError:
    named = f"{source.param}: {source.name!r}"
    answer = _find_answer(error)
    if isinstance(answer, RevisionNotFoundError):
        return ModelLoadError(f"{named} has no revision {source.revision!r} on the hub", param="model_revision")
    if isinstance(answer, GatedRepoError):
        reason = "is gated: accept its terms on the hub, and give the huggingface_hub_token of who did"
        return ModelLoadError(f"{named} {reason}", param=source.param)
    if isinstance(error, HFValidationError) or isinstance(answer, RepositoryNotFoundError):
        reason = "is neither a folder here nor a repository on the hub that the token given can read"
        return ModelLoadError(f"{named} {reason}; see huggingface_hub_token", param=source.param)
    if answer is not None and not _is_transient(answer.response.status_code):
        reason = f"cannot be read: {constants.ENDPOINT} answered {answer.response.status_code}"
        return ModelLoadError(f"{named} {reason}; check the name and huggingface_hub_token", param=source.param)
    if constants.HF_HUB_OFFLINE:
        reason = "is neither a folder here nor in the hub's cache, and HF_HUB_OFFLINE forbids to fetch it"
        return ModelLoadError(f"{named} {reason}", param=source.param)
    reason = f"could not be fetched from {constants.ENDPOINT}: {error}"
    return NetworkError(f"{named} {reason}", param=source.param)


def _find_answer(error: BaseException | None) -> HfHubHTTPError | None:
    """The hub's answer behind an error: the client says of most that nothing was found in the cache."""
    while error is not None:
        if isinstance(error, HfHubHTTPError):
            return error
        error = error.__cause__
    return None


def _is_transient(status: int) -> bool:
    return status in (408, 429) or status >= 500


def _describe_missing(source: _Source, pattern: str) -> str:
    if pattern.endswith(".safetensors"):
        return (
            f"{source.param}: {source.name!r} has no weights as safetensors; other formats (.bin, .pt, .pth, .ckpt) "
            "run code when they are loaded: load it where you trust it, and write it anew with save_pretrained"
        )
    return f"{source.param}: {source.name!r} has no {pattern}"


def _read_revisions(folders: Sequence[Path]) -> dict[str, str]:
    """A folder in the hub's cache reads `…/models--owner--name/snapshots/<commit>`."""
    return {
        folder.parents[1].name.removeprefix("models--").replace("--", "/"): folder.name
        for folder in folders
        if folder.parent.name == "snapshots" and folder.parents[1].name.startswith("models--")
    }
