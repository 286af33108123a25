"""Which rows a quantizer is calibrated on, rendered as training saw them."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer_core.datasets.data_keys import apply_data_keys
from trainer_core.datasets.json_lines import write_rows
from trainer_core.errors import NetworkError, StepInputError
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

    Raises DataError for rows that give no sample, StepInputError when there is none.
    """
    limit = config.quantization_max_samples or None
    with tempfile.TemporaryDirectory(prefix="finesmith-calibration-") as scratch:
        path = rows.path or _fetch_hub_rows(str(rows.hub_id), limit=limit, folder=Path(scratch))
        chosen = apply_data_keys(config) if rows.are_prepared else choose_components(config, path)
        batches = list(render_batches(path, config=chosen, tokenizer=tokenizer, batch_size=1, limit=limit))
    if not batches:
        raise StepInputError(f"{rows.name} has no row to calibrate on", param="quantization_dataset_id")
    return batches


def _fetch_hub_rows(name: str, *, limit: int | None, folder: Path) -> Path:
    """Streams the first rows of a data set's training split into a file. Raises StepInputError or NetworkError."""
    import datasets
    from huggingface_hub import constants

    problem = f"quantization_dataset_id: there is neither a file nor a data set {name!r} here"
    if constants.HF_HUB_OFFLINE and not Path(name).is_dir():
        raise StepInputError(f"{problem}; give a file", param="quantization_dataset_id")
    try:
        rows: Iterator[Any] = iter(datasets.load_dataset(name, split="train", streaming=True))
        write_rows(folder / "calibration.jsonl", (dict(row) for row in islice(rows, limit)))
    except (FileNotFoundError, ValueError) as error:
        raise StepInputError(f"{problem}: {error}", param="quantization_dataset_id") from error
    except (ConnectionError, OSError) as error:
        message = f"the data set {name!r} cannot be read from the Hub: {error}"
        raise NetworkError(message, param="quantization_dataset_id") from error
    return folder / "calibration.jsonl"
