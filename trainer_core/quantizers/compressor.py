"""What the quantizers by llm-compressor share: the plan of layers, the run, the errors, the saving."""

import time
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from trainer_core.errors import QuantizationError, TrainerError
from trainer_core.quantizers.base import Quantizer
from trainer_core.quantizers.calibration_batches import Batching, CalibrationBatch, batch_samples
from trainer_core.quantizers.calibration_room import choose_cache_device, measure_room
from trainer_core.quantizers.calibration_size import check_calibration_size
from trainer_core.quantizers.causal_tracing import keep_causal
from trainer_core.quantizers.layer_plan import PER_CHANNEL, LayerPlan, check_experts, describe_misfits, plan_layers
from trainer_core.quantizers.layer_watch import LayerWatch
from trainer_core.quantizers.library_noise import quiet_library

if TYPE_CHECKING:
    from torch.utils.data import DataLoader


class CompressorQuantizer(Quantizer):
    """A quantizer by llm-compressor over all linear layers but the head, saved as compressed-tensors.

    A subclass builds the recipe; its modifiers account for every layer of the plan through a LayerWatch.
    """

    pipeline: ClassVar[str] = "sequential"
    """`sequential`: all modifiers in one pass over the model's parts; `independent`: a pass for each; `datafree`."""
    needs_samples: ClassVar[bool] = True
    """Whether calibration samples run through the model."""
    batching: ClassVar[Batching] = Batching.NONE
    """Which samples may run through it together."""
    batches: list[CalibrationBatch]
    """The samples as they run through the model; there when the recipe is built."""

    def build(self) -> None:
        """Loads tokenizer and model, renders the samples and plans the layers. Raises StepInputError for too few."""
        super().build()
        self.plan = self.build_plan()
        if self.needs_samples:
            warning = check_calibration_size(self.calibration, num_columns=self.plan.num_widest_columns)
            if warning is not None:
                self.warn(warning)

    def build_plan(self) -> LayerPlan:
        """The layers to quantize and their grouping. Raises QuantizationError for a model without linear layers."""
        check_experts(self.model)
        plan = plan_layers(self.model, group_size=self.group_size)
        misfits = describe_misfits(plan, model=self.model, group_size=self.group_size)
        if misfits is not None:
            self.warn(misfits, layers=list(plan.per_channel))
        return plan

    @property
    def group_size(self) -> int:
        """Weights that share a scale; −1: one scale a row."""
        return PER_CHANNEL

    @property
    def planned_layers(self) -> tuple[str, ...]:
        """Names of the layers that the saved checkpoint must hold quantized."""
        return self.plan.quantized

    @abstractmethod
    def build_recipe(self, watch: LayerWatch) -> Sequence[Any]:
        """llm-compressor's modifiers in their order; the one that finishes the layers tells `watch`."""

    def quantize(self) -> None:
        """Quantizes the model in place, part by part, on the GPU if there is one.

        Raises QuantizationError for a layer that the method fails on.
        """
        total = len(self.plan.quantized)

        def report(done: int) -> None:
            data = {"global_step": done, "total_steps": total}
            self.context.events.emit("progress", message=f"quantized {done} of {total} layers", data=data)

        self.batches = self._batch_samples() if self.needs_samples else []
        import_started = time.monotonic()
        with quiet_library():
            recipe = self.build_recipe(LayerWatch(self.plan.quantized, on_layers_done=report))
            started = time.monotonic()
            try:
                self._run(recipe)
            except (TrainerError, MemoryError):
                raise
            # The library raises whatever its tracing, its pydantic models and torch do.
            except Exception as error:  # noqa: BLE001
                _raise_as_ours(error)
        self.facts |= {
            "num_layers": total,
            "num_per_channel_layers": len(self.plan.per_channel),
            "library_import_seconds": round(started - import_started, 2),
            "quantization_seconds": round(time.monotonic() - started, 2),
        }
        if self.needs_samples:
            self.facts |= {
                "num_calibration_samples": len(self.calibration),
                "num_calibration_tokens": sum(int(batch["attention_mask"].sum()) for batch in self.calibration),
            }

    def save(self, folder: Path) -> None:
        """Writes compressed-tensors weights, config and tokenizer."""
        with quiet_library():
            self.model.save_pretrained(folder, max_shard_size=self.config.max_shard_size)
        self.tokenizer.save_pretrained(folder)

    def build_groups(self, **weights: Any) -> dict[str, Any]:
        """The schemes by group of layers: weights only, given by llm-compressor's QuantizationArgs.

        Layers that the group size does not divide get one scale a row.
        """
        groups = {}
        if self.plan.grouped:
            groups["group_0"] = _build_scheme(["Linear"], group_size=self.group_size, weights=weights)
        if self.plan.per_channel:
            targets = list(self.plan.per_channel) if self.plan.grouped else ["Linear"]
            groups[f"group_{len(groups)}"] = _build_scheme(targets, group_size=PER_CHANNEL, weights=weights)
        return groups

    def _batch_samples(self) -> list[CalibrationBatch]:
        batches = batch_samples(self.calibration, room=measure_room(self.model), batching=self.batching)
        largest = max(len(batch.inputs["input_ids"]) for batch in batches)
        message = f"calibrates on {len(self.calibration)} samples in {len(batches)} batches of up to {largest}"
        data = {"num_batches": len(batches), "max_batch_samples": largest}
        self.context.events.emit("decision", message=message, data=data)
        return batches

    def _run(self, recipe: Sequence[Any]) -> None:
        from llmcompressor.entrypoints.oneshot import oneshot

        samples: dict[str, Any] = {}
        if self.batches:
            samples = {
                "dataset": _build_loader(self.batches),
                "num_calibration_samples": len(self.batches),
                "sequential_offload_device": choose_cache_device(self.model, self.calibration),
            }
        with keep_causal(self.model):
            oneshot(
                model=self.model,
                recipe=list(recipe),
                # A tokenizer is what the library takes here for a language model, whatever its annotation says.
                processor=self.tokenizer,  # type: ignore[arg-type]
                pipeline=self.pipeline,
                trust_remote_code_model=self.config.trust_remote_code,
                **samples,
            )


def _build_loader(batches: Sequence[CalibrationBatch]) -> "DataLoader[Any]":
    from torch.utils.data import DataLoader

    return DataLoader([batch.inputs for batch in batches], batch_size=None)  # type: ignore[arg-type]


def _build_scheme(targets: list[str], *, group_size: int, weights: dict[str, Any]) -> Any:
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    is_per_channel = group_size == PER_CHANNEL
    arguments = QuantizationArgs(
        type="int",
        strategy="channel" if is_per_channel else "group",
        group_size=None if is_per_channel else group_size,
        **weights,
    )
    return QuantizationScheme(targets=targets, weights=arguments)


def _raise_as_ours(error: Exception) -> NoReturn:
    """Tells the library's own failures as a QuantizationError; a full memory or disk keeps its own type."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | OSError):
        raise error
    # Errors raised inside the library's events may arrive wrapped.
    cause = error.__cause__ or error.__context__
    if isinstance(cause, TrainerError):
        raise cause from error
    raise QuantizationError(f"llm-compressor failed: {type(error).__name__}: {error}") from error
