"""Where the rows of a job come from in the step prepare: uploads, a data set's own rows, or files that exist."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainer_core.config import Config
from trainer_core.datasets.json_lines import write_lines
from trainer_core.datasets.loading import get_dataset_class
from trainer_core.datasets.rows_on_disk import RowsOnDisk
from trainer_core.datasets.splits import shuffled_order
from trainer_core.errors import DataError, StepInputError
from trainer_core.job_spec import StepInputs

Role = Literal["train", "eval"]


@dataclass(frozen=True, slots=True)
class RowFile:
    """Rows for one purpose."""

    role: Role
    rows: RowsOnDisk
    num_rows: int
    """The first so many are used."""
    label: str
    """What a user calls the file: the option that gave it, or its name."""
    target: Path | None = None
    """Where uploaded rows are to be copied; None: they lie where training reads them."""

    def locate(self, index: int) -> str:
        """Names a row's place for errors."""
        return f"{self.label} line {self.rows.get_line_number(index)}"


@dataclass(frozen=True, slots=True)
class GatheredRows:
    """What there is to train and evaluate on."""

    files: tuple[RowFile, ...]
    """The training rows first, then evaluation rows if there are any."""
    notes: tuple[str, ...]
    """What a user should know about rows that went elsewhere than named."""


def gather_rows(config: Config, inputs: StepInputs) -> GatheredRows:
    """Finds the rows: uploaded files first, then the data set's own `get_data`, then files that exist.

    `get_data` is called, and its rows written, only where no training file was uploaded. Raises StepInputError naming
    the ways to give rows when there are none, DataError for rows that cannot be stored.
    """
    if inputs.training_file is not None:
        target = Path(config.train_local_path_to_data)
        train = _open_upload(inputs.training_file, role="train", label="training_file", target=target)
        notes: tuple[str, ...] = ()
    else:
        notes = _prepare_own_rows(config, inputs)
        train = _open_existing(Path(config.train_local_path_to_data), role="train")
    evaluation, more_notes = _find_evaluation_rows(config, inputs)
    return GatheredRows(files=(train, *evaluation), notes=(*notes, *more_notes))


def copy_upload(file: RowFile, config: Config) -> None:
    """Copies an uploaded file's rows, byte for byte, to where training reads them; training rows in shuffled order.

    Does nothing for rows that are there already. Raises OSError.
    """
    if file.target is None:
        return
    order: Sequence[int] = shuffled_order(file.num_rows, config) if file.role == "train" else range(file.num_rows)
    write_lines(file.target, (file.rows.read_line(index).strip() for index in order))


def _prepare_own_rows(config: Config, inputs: StepInputs) -> tuple[str, ...]:
    splits = None
    if config.prepare_dataset:
        given = config
        if inputs.validation_file is not None:
            given = copy.copy(config)
            given.eval_local_path_to_data = None
        splits = get_dataset_class(config).prepare(given)
    if splits is not None:
        return splits.notes
    path = Path(config.train_local_path_to_data)
    if not path.is_file():
        cause = (
            f"the data set {config.dataset_key!r} brings no rows"
            if config.prepare_dataset
            else "prepare_dataset is off"
        )
        raise StepInputError(
            f"there is nothing to train on: {cause}, and there is no file {path}; give a training_file, an input_job "
            "that prepared data, or a dataset_key whose data set brings rows; in a script, put rows at "
            "train_local_path_to_data",
            param="training_file",
        )
    return ()


def _find_evaluation_rows(config: Config, inputs: StepInputs) -> tuple[tuple[RowFile, ...], tuple[str, ...]]:
    path = config.eval_local_path_to_data
    if inputs.validation_file is None:
        # Over HTTP rows are uploaded into a fresh folder; a file there is one that get_data's rows were written to.
        is_there = inputs.training_file is None and path is not None and Path(path).is_file()
        return ((_open_existing(Path(str(path)), role="eval"),) if is_there else (), ())
    if path is None:
        raise StepInputError("validation_file: eval_local_path_to_data is not set", param="eval_local_path_to_data")
    file = _open_upload(inputs.validation_file, role="eval", label="validation_file", target=Path(path))
    surplus = len(file.rows) - config.max_eval_samples
    if config.max_eval_samples <= 0 or surplus <= 0:
        return (file,), ()
    note = f"validation_file: {surplus} rows above max_eval_samples={config.max_eval_samples} are left out"
    return (RowFile(file.role, file.rows, config.max_eval_samples, file.label, file.target),), (note,)


def _open_upload(path: str, *, role: Role, label: str, target: Path) -> RowFile:
    file = Path(path)
    if not file.is_file():
        raise StepInputError(f"{label}: there is no file {path}", param=label)
    rows = RowsOnDisk(file, label=label)
    if not rows:
        raise DataError(f"{label}: the file has no rows", param=label)
    try:
        rows.check()
    except DataError as error:
        raise DataError(error.message, param=label) from error
    return RowFile(role=role, rows=rows, num_rows=len(rows), label=label, target=target)


def _open_existing(path: Path, *, role: Role) -> RowFile:
    rows = RowsOnDisk(path)
    if not rows and role == "train":
        raise DataError(f"{path} has no rows", param="train_local_path_to_data")
    return RowFile(role=role, rows=rows, num_rows=len(rows), label=path.name)
