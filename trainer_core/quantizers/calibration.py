"""Which rows a quantizer is calibrated on, rendered as training saw them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trainer_core.datasets.data_keys import apply_data_keys
from trainer_core.errors import DataError, StepInputError
from trainer_core.rendering import choose_components, render_batches

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from trainer_core.config import Config
    from trainer_core.job_spec import StepInputs
    from trainer_core.types import Batch

PARAM = "quantization_dataset_id"


@dataclass(frozen=True, slots=True)
class CalibrationRows:
    """Where the rows come from."""

    path: Path | None
    """File of one JSON object a line; None: a data set on the Hub."""
    hub_id: str | None
    are_prepared: bool
    """Rows of this Config's own data set; others choose their data set by the keys of the first row."""

    @property
    def name(self) -> str:
        """What events call the rows."""
        return str(self.path or self.hub_id)


def find_calibration_rows(config: "Config", inputs: "StepInputs") -> CalibrationRows:
    """A given file, `quantization_dataset_id`, another job's prepared data, this Config's: the first there is.

    Nothing is prepared anew and no file is written. Raises StepInputError naming the ways to give rows.
    """
    if inputs.calibration_file is not None:
        return CalibrationRows(Path(inputs.calibration_file), None, are_prepared=False)
    if config.quantization_dataset_id is not None:
        path = Path(config.quantization_dataset_id)
        if path.is_file():
            return CalibrationRows(path, None, are_prepared=False)
        return CalibrationRows(None, config.quantization_dataset_id, are_prepared=False)
    own = Path(config.train_local_path_to_data)
    if own.is_file():
        return CalibrationRows(own, None, are_prepared=True)
    if inputs.prepared_train is not None:
        return CalibrationRows(Path(inputs.prepared_train), None, are_prepared=True)
    message = (
        f"quantize needs data to calibrate on: there is no file {own}; run the step prepare, or name a file in "
        "quantization_dataset_id"
    )
    raise StepInputError(message, param=PARAM)


def render_calibration(
    rows: CalibrationRows, *, config: "Config", tokenizer: "PreTrainedTokenizerBase"
) -> "list[Batch]":
    """Batches of one sample each: no padding reaches the layers' statistics.

    Raises DataError for prepared rows that give no sample, StepInputError for given ones that give none.
    """
    path = rows.path
    if path is None:
        # It needs the Hub's library, which whoever calibrates on a file does without.
        from trainer_core.quantizers.calibration_source import fetch_hub_rows

        max_rows = config.quantization_max_samples or None
        path = fetch_hub_rows(str(rows.hub_id), token=config.huggingface_hub_token, max_rows=max_rows)
    if rows.are_prepared:
        batches = _render(path, config=apply_data_keys(config), tokenizer=tokenizer)
    else:
        try:
            batches = _render(path, config=choose_components(config, path), tokenizer=tokenizer)
        except DataError as error:
            raise _name_option(error, rows=rows, path=path) from error
    if not batches:
        raise StepInputError(f"{PARAM}: {rows.name} has no row to calibrate on", param=PARAM)
    return batches


def _render(path: Path, *, config: "Config", tokenizer: "PreTrainedTokenizerBase") -> "list[Batch]":
    limit = config.quantization_max_samples or None
    return list(render_batches(path, config=config, tokenizer=tokenizer, batch_size=1, limit=limit))


def _name_option(error: DataError, *, rows: CalibrationRows, path: Path) -> StepInputError:
    """The errors of rows speak of training_file, where rows of this kind come from otherwise."""
    reason = error.message.removeprefix("training_file: ").replace(str(path), rows.name)
    hint = "rows need 'messages', 'text_parts' or 'text', or a dataset_key that names the data set that reads them"
    return StepInputError(f"{PARAM}: {rows.name}: {reason}; {hint}", param=PARAM)
