"""The base class of quantizers: load, calibrate, quantize, save."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from trainer_core.context import StepContext
from trainer_core.quantizers.calibration import CalibrationRows, render_calibration
from trainer_core.quantizers.loading import load_source_model
from trainer_core.tokenizers.loading import load_source_tokenizer
from trainer_core.types import JsonValue

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from trainer_core.config import Config
    from trainer_core.types import Batch


class Quantizer(ABC):
    """Makes one model smaller. The step calls `build`, `quantize` and `save`, in this order.

    A quantizer of yours implements `quantize` and `save`, and may replace any of the `build_…` methods. The model's
    check afterwards, in a process of its own, is the step's work.
    """

    model: "PreTrainedModel"
    works_on_gpu: ClassVar[bool] = False
    """Whether the model may lie on the GPU as a whole while it is quantized, where there is much room."""
    tokenizer: "PreTrainedTokenizerBase"
    calibration: "list[Batch]"
    """Batches of one sample each on the CPU, as training saw them: `input_ids`, `attention_mask`, `labels`."""

    def __init__(self, config: "Config", *, source: str, rows: CalibrationRows, context: StepContext) -> None:
        self.config = config
        self.source = source
        """Folder or Hub name of the model to quantize."""
        self.rows = rows
        self.context = context
        self.facts: dict[str, JsonValue] = {}
        """Numbers worth keeping; they end in the step's result."""

    def build(self) -> None:
        """Loads tokenizer and model and renders the calibration samples."""
        self.tokenizer = self.build_tokenizer()
        self.model = self.build_model()
        self.calibration = self.build_calibration()

    def build_tokenizer(self) -> "PreTrainedTokenizerBase":
        """The tokenizer that lies beside the model, else the Config's. Raises ModelLoadError."""
        tokenizer: PreTrainedTokenizerBase = load_source_tokenizer(self.source, config=self.config)
        return tokenizer

    def build_model(self) -> "PreTrainedModel":
        """The model in its own precision, on the CPU unless `device_map` says else. Raises ModelLoadError."""
        return load_source_model(self.source, config=self.config)

    def build_calibration(self) -> "list[Batch]":
        """At most `quantization_max_samples` samples in file order, cut at `max_length`. Raises DataError."""
        return render_calibration(self.rows, config=self.config, tokenizer=self.tokenizer)

    @property
    def planned_layers(self) -> tuple[str, ...]:
        """Names of the layers that the saved checkpoint must hold quantized; none: it is not looked into."""
        return ()

    @abstractmethod
    def quantize(self) -> None:
        """Quantizes `self.model` with `self.calibration`.

        Raises QuantizationError naming the layer or the option; never falls back to a worse method silently.
        """

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Writes model and tokenizer into an empty folder, loadable by `from_pretrained`."""

    def warn(self, message: str, **data: Any) -> None:
        """Tells the user something that needs no stop."""
        self.context.events.emit("warning", message=message, level="warning", data=data)
