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
    raise StepInputError(message, param="quantization_dataset_id")


def render_calibration(
    rows: CalibrationRows, *, config: "Config", tokenizer: "PreTrainedTokenizerBase"
) -> "list[Batch]":
    """Batches of one sample each: no padding reaches the layers' statistics.

    Raises DataError for rows that give no sample, StepInputError when there is none or they are of no known shape.
    """
    limit = config.quantization_max_samples or None
    path = rows.path
    if path is None:
        # It needs the Hub's library, which whoever calibrates on a file does without.
        from trainer_core.quantizers.calibration_source import fetch_hub_rows

        path = fetch_hub_rows(str(rows.hub_id), token=config.huggingface_hub_token, max_rows=limit)
    chosen = apply_data_keys(config) if rows.are_prepared else _choose_components(config, path, name=rows.name)
    batches = list(render_batches(path, config=chosen, tokenizer=tokenizer, batch_size=1, limit=limit))
    if not batches:
        raise StepInputError(f"{rows.name} has no row to calibrate on", param="quantization_dataset_id")
    return batches


def _choose_components(config: "Config", path: Path, *, name: str) -> "Config":
    try:
        return choose_components(config, path)
    except DataError as error:
        # It speaks of training_file, where rows of this kind come from otherwise.
        reason = error.message.removeprefix("training_file: ").replace(str(path), name)
        message = f"quantization_dataset_id: {reason}"
        raise StepInputError(message, param="quantization_dataset_id") from error
