"""The step prepare: rows become checked data files, and the model becomes local."""

import copy
import time
from collections.abc import Sequence
from pathlib import Path

from trainer_core.collators.building import build_collator
from trainer_core.collators.label_check import check_labels
from trainer_core.collators.row_check import TokenCounts, check_rows
from trainer_core.config import Config, Step
from trainer_core.config.template_checks import CHATML
from trainer_core.context import ArtifactFolder, StepContext, StepResult
from trainer_core.datasets.data_keys import DataKeys, apply_data_keys, infer_data_keys, with_keys, write_data_keys
from trainer_core.datasets.loading import load_dataset
from trainer_core.datasets.row_files import GatheredRows, RowFile, copy_upload, gather_rows
from trainer_core.errors import DataError, TrainerError
from trainer_core.models.positions import check_longest_row, check_max_length
from trainer_core.staging import StagedInputs, stage_hub_inputs
from trainer_core.tokenizers import build_tokenizer
from trainer_core.tokenizers.chat_template import describe_chatml
from trainer_core.types import JsonValue

SECONDS_BETWEEN_REPORTS = 5.0


def prepare(config: Config, *, context: StepContext | None = None) -> StepResult:
    """Fetches the model and writes the data files of the Config, every row of them checked.

    Uploaded rows are checked before they are copied, in the order and with the line numbers of their file. Raises
    DataError telling the rows that training could not use, StepInputError when there are no rows, ModelLoadError and
    NetworkError when model or tokenizer cannot be had.
    """
    context = context or StepContext.for_script(Step.PREPARE)
    staged = stage_hub_inputs(config, (Step.PREPARE,))
    config = _with_local_folders(config, staged)
    check_max_length(config)

    rows = gather_rows(config, context.inputs)
    for note in rows.notes:
        context.events.emit("warning", message=note, level="warning")
    is_uploaded = rows.files[0].target is not None
    config = _choose_components(config, rows, context) if is_uploaded else apply_data_keys(config)

    facts = _check_files(config, rows.files, context)
    for file in rows.files:
        copy_upload(file, config)
    keys = DataKeys(dataset_key=config.dataset_key, collator_key=config.collator_key)
    key_files = [write_data_keys(Path(config.train_local_path_to_data).parent, keys)] if is_uploaded else []
    return StepResult(
        artifacts=_list_artifacts([*_list_data_paths(rows.files), *key_files]),
        facts={
            **facts,
            "dataset_key": keys.dataset_key,
            "collator_key": keys.collator_key,
            "revisions": dict(staged.revisions),
        },
    )


def _with_local_folders(config: Config, staged: StagedInputs) -> Config:
    local = copy.copy(config)
    local.model_name_or_path = staged.model or config.model_name_or_path
    local.tokenizer_name_or_path = staged.tokenizer or config.tokenizer_name_or_path
    return local


def _choose_components(config: Config, rows: GatheredRows, context: StepContext) -> Config:
    chosen = with_keys(config, infer_data_keys(config, rows.files[0].rows[0]))
    if (chosen.dataset_key, chosen.collator_key) != (config.dataset_key, config.collator_key):
        context.events.emit(
            "decision",
            message=f"The first row calls for dataset_key={chosen.dataset_key}, collator_key={chosen.collator_key}",
            data={"dataset_key": chosen.dataset_key, "collator_key": chosen.collator_key},
        )
    return chosen


def _check_files(config: Config, files: Sequence[RowFile], context: StepContext) -> dict[str, JsonValue]:
    """Facts about each file: rows, tokens, what is learned, what is cut; with `eval_` for evaluation."""
    facts: dict[str, JsonValue] = {}
    for file in files:
        prefix = "" if file.role == "train" else "eval_"
        facts[f"{prefix}rows"] = file.num_rows
        counts = _check_file_or_warn(config, file, context)
        if counts is None:
            continue
        facts |= {
            f"{prefix}tokens": counts.num_tokens,
            f"{prefix}supervised_tokens": counts.num_targets,
            f"{prefix}truncated_rows": counts.num_cut_rows,
            f"{prefix}longest_row_tokens": counts.num_longest_tokens,
        }
        _warn_of_rows(config, file, counts, context)
        check_longest_row(config, counts.num_longest_tokens)
    return facts


def _warn_of_rows(config: Config, file: RowFile, counts: TokenCounts, context: StepContext) -> None:
    if counts.num_cut_rows:
        share = f"{counts.num_cut_rows} of {counts.num_rows}"
        message = f"{file.label}: {share} rows are longer than max_length={config.max_length} tokens and were cut"
        data: dict[str, JsonValue] = {
            "truncated_rows": counts.num_cut_rows,
            "rows": counts.num_rows,
            "max_length": config.max_length,
        }
        context.events.emit("warning", message=message, level="warning", data=data)
    if counts.num_rows_without_prefix_end:
        message = (
            f"{file.label}: in {counts.num_rows_without_prefix_end} of {counts.num_rows} rows the last part does not "
            f"hold collator_prefix_end={config.collator_prefix_end!r}; all of it is learned"
        )
        data = {"rows_without_prefix_end": counts.num_rows_without_prefix_end, "rows": counts.num_rows}
        context.events.emit("warning", message=message, level="warning", data=data)
    num_rows_of_step = config.per_device_train_batch_size * config.gradient_accumulation_steps
    if file.role == "train" and file.num_rows < num_rows_of_step:
        message = (
            f"{file.label}: {file.num_rows} rows are fewer than one optimizer step takes, "
            f"per_device_train_batch_size × gradient_accumulation_steps = {num_rows_of_step}: an epoch is one step"
        )
        data = {"rows": file.num_rows, "rows_of_a_step": num_rows_of_step}
        context.events.emit("warning", message=message, level="warning", data=data)


def _check_file_or_warn(config: Config, file: RowFile, context: StepContext) -> TokenCounts | None:
    if config.experiment_key == "base":
        return _check_file(config, file, context)
    try:
        return _check_file(config, file, context)
    except (TrainerError, TypeError) as error:
        # A user's experiment may build tokenizer, data set or collator in its own way, which only training does.
        message = f"{file.label} could not be checked without the experiment {config.experiment_key!r}: {error}"
        context.events.emit("warning", message=message, level="warning")
        return None


def _check_file(config: Config, file: RowFile, context: StepContext) -> TokenCounts:
    dataset = load_dataset(config, str(file.rows.path))
    if len(dataset) < file.num_rows:
        name = type(dataset).__name__
        raise DataError(
            f"{file.label}: {name} has {len(dataset)} samples for {file.num_rows} rows", param="dataset_key"
        )
    tokenizer = build_tokenizer(config)
    if config.chat_template == CHATML and file.role == "train":
        context.events.emit("decision", message=describe_chatml(tokenizer))
    collator = build_collator(config, tokenizer)
    progress = _Progress(file, context)
    try:
        counts = check_rows(dataset, collator, locate=file.locate, num_rows=file.num_rows, on_progress=progress.report)
    except DataError as error:
        if error.param is not None or file.target is None:
            raise
        raise DataError(error.message, param=file.label) from error
    for fault in check_labels(dataset, collator, num_rows=file.num_rows):
        if config.trainer_key in ("default", "lm"):
            raise DataError(fault, param="collator_key")
        context.events.emit("warning", message=fault, level="warning")
    return counts


class _Progress:
    """Tells now and then how far the check of a long file has come."""

    def __init__(self, file: RowFile, context: StepContext) -> None:
        self._file = file
        self._context = context
        self._told_at = time.monotonic()

    def report(self, num_rows: int) -> None:
        """`num_rows` are checked so far."""
        if time.monotonic() - self._told_at < SECONDS_BETWEEN_REPORTS:
            return
        self._told_at = time.monotonic()
        message = f"{self._file.label}: {num_rows} of {self._file.num_rows} rows are checked"
        data: dict[str, JsonValue] = {"rows": num_rows, "total_rows": self._file.num_rows}
        self._context.events.emit("progress", message=message, data=data)


def _list_data_paths(files: Sequence[RowFile]) -> list[Path]:
    return [file.target or file.rows.path for file in files]


def _list_artifacts(paths: Sequence[Path]) -> tuple[ArtifactFolder, ...]:
    """One folder of data, or two where a script keeps training and evaluation rows apart."""
    folders = dict.fromkeys(path.parent.resolve() for path in paths)
    return tuple(
        ArtifactFolder(
            name="data",
            root=folder,
            files=tuple(sorted(path.name for path in paths if path.parent.resolve() == folder)),
        )
        for folder in folders
    )
