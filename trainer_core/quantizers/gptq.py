"""GPTQ by llm-compressor: weights in 4 or 8 bits, activations as they are, saved as compressed-tensors."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer_core.errors import QuantizationError, TrainerError
from trainer_core.quantizers.base import Quantizer
from trainer_core.quantizers.gptq_scheme import PER_CHANNEL, LayerPlan, check_bits, describe_misfits, plan_layers
from trainer_core.quantizers.library_noise import quiet_library

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

    from trainer_core.quantizers.gptq_modifier import StrictGPTQModifier

PROGRESS_INTERVAL_SECONDS = 1.0


class GPTQQuantizer(Quantizer):
    """GPTQ (https://arxiv.org/abs/2210.17323) over all linear layers but the head.

    Dampening, block size and the order of columns are llm-compressor's defaults: 0.01, 128 and by activation with the
    groups left in place. Weights are symmetric around zero.
    """

    def build(self) -> None:
        """Checks what the Config asks for before the model is loaded."""
        check_bits(self.config.gptq_bits)
        super().build()

    def quantize(self) -> None:
        """Quantizes the model in place, layer by layer, on the GPU if there is one.

        Raises QuantizationError for a layer that GPTQ cannot solve.
        """
        plan = self._plan()
        import_started = time.monotonic()
        with quiet_library():
            modifier = self._build_modifier(plan)
            started = time.monotonic()
            try:
                self._run(modifier)
            except (TrainerError, MemoryError):
                raise
            # The library raises whatever its tracing, its pydantic models and torch do.
            except Exception as error:  # noqa: BLE001
                _raise_as_ours(error)
        self.facts |= {
            "num_layers": len(plan.quantized),
            "num_per_channel_layers": len(plan.per_channel),
            "num_calibration_samples": len(self.calibration),
            "num_calibration_tokens": sum(int(batch["attention_mask"].sum()) for batch in self.calibration),
            "library_import_seconds": round(started - import_started, 2),
            "gptq_seconds": round(time.monotonic() - started, 2),
        }

    def save(self, folder: Path) -> None:
        """Writes compressed-tensors weights, config and tokenizer."""
        with quiet_library():
            self.model.save_pretrained(folder, max_shard_size=self.config.max_shard_size)
        self.tokenizer.save_pretrained(folder)

    def _plan(self) -> LayerPlan:
        group_size = self.config.gptq_group_size
        plan = plan_layers(self.model, group_size=group_size)
        misfits = describe_misfits(plan, model=self.model, group_size=group_size)
        if misfits is not None:
            self.warn(misfits, layers=list(plan.per_channel))
        return plan

    def _build_modifier(self, plan: LayerPlan) -> "StrictGPTQModifier":
        from trainer_core.quantizers.gptq_modifier import ProgressThrottle, StrictGPTQModifier

        groups = {}
        if plan.grouped:
            groups["group_0"] = self._build_scheme(["Linear"], group_size=self.config.gptq_group_size)
        if plan.per_channel:
            targets = list(plan.per_channel) if plan.grouped else ["Linear"]
            groups[f"group_{len(groups)}"] = self._build_scheme(targets, group_size=PER_CHANNEL)
        modifier = StrictGPTQModifier(config_groups=groups, ignore=list(plan.ignored))
        total = len(plan.quantized)

        def report(done: int) -> None:
            data = {"global_step": done, "total_steps": total}
            self.context.events.emit("progress", message=f"quantized {done} of {total} layers", data=data)

        throttle = ProgressThrottle(total=total, interval_seconds=PROGRESS_INTERVAL_SECONDS, report=report)
        modifier.watch(expected=frozenset(plan.quantized), on_layers_done=throttle)
        return modifier

    def _build_scheme(self, targets: list[str], *, group_size: int) -> Any:
        from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

        strategy = "channel" if group_size == PER_CHANNEL else "group"
        weights = QuantizationArgs(
            num_bits=self.config.gptq_bits,
            type="int",
            symmetric=True,
            strategy=strategy,
            group_size=None if group_size == PER_CHANNEL else group_size,
        )
        return QuantizationScheme(targets=targets, weights=weights)

    def _run(self, modifier: "StrictGPTQModifier") -> None:
        from llmcompressor.entrypoints.oneshot import oneshot

        oneshot(
            model=self.model,
            recipe=modifier,
            dataset=self._build_loader(),
            # A tokenizer is what the library takes here for a language model, whatever its annotation says.
            processor=self.tokenizer,  # type: ignore[arg-type]
            num_calibration_samples=len(self.calibration),
            pipeline="sequential",
            trust_remote_code_model=self.config.trust_remote_code,
        )

    def _build_loader(self) -> "DataLoader[Any]":
        from torch.utils.data import DataLoader

        samples = [{key: batch[key] for key in ("input_ids", "attention_mask")} for batch in self.calibration]
        return DataLoader(samples, batch_size=None)  # type: ignore[arg-type]


def _raise_as_ours(error: Exception) -> None:
    """Tells the library's own failures as a QuantizationError; a full memory or disk keeps its own type."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | OSError):
        raise error
    # Errors raised inside the library's events may arrive wrapped.
    cause = error.__cause__ or error.__context__
    if isinstance(cause, TrainerError):
        raise cause from error
    raise QuantizationError(f"llm-compressor failed: {type(error).__name__}: {error}") from error
