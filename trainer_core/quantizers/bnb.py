"""bitsandbytes: weights in 4 bits (NF4 or FP4) or 8 bits, quantized as they are loaded, without calibration."""

import gc
import importlib.util
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer_core.errors import QuantizationError
from trainer_core.models.loading import LoadingChoices, load_model
from trainer_core.quantizers.base import Quantizer
from trainer_core.quantizers.layer_plan import plan_layers
from trainer_core.quantizers.library_noise import quiet_library

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig


class BnbQuantizer(Quantizer):
    """bitsandbytes over all linear layers but the head, GPT-2's Conv1D among them.

    `gptq_bits` chooses between 4 bits, of the type that `bnb_4bit_quant_type` and `bnb_4bit_use_double_quant` say, and
    8 bits, with `llm_int8_threshold`. The rows only serve to measure the loss before and after.
    """

    def build(self) -> None:
        """Loads tokenizer and model and renders the rows. Raises QuantizationError without bitsandbytes."""
        if importlib.util.find_spec("bitsandbytes") is None:
            message = "quantizer_key='bnb' needs the package bitsandbytes; install it, or use another quantizer_key"
            raise QuantizationError(message, param="quantizer_key")
        super().build()
        self.plan = plan_layers(self.model, with_conv1d=True)

    @property
    def planned_layers(self) -> tuple[str, ...]:
        """All linear layers but the head and routers."""
        return self.plan.quantized

    def quantize(self) -> None:
        """Loads the model anew, quantized. Raises QuantizationError for a layer that was left as it was."""
        started = time.monotonic()
        dtype = self.model.dtype
        # Two models at once need not fit.
        del self.model
        gc.collect()
        with quiet_library():
            choices = LoadingChoices(
                dtype=dtype, quantization_config=self._build_settings(dtype), device_map=self.config.device_map
            )
            self.model = load_model(self.config, choices=choices, name=self.source)
        self._check_layers()
        self.facts |= {
            "num_layers": len(self.plan.quantized),
            "quantization_seconds": round(time.monotonic() - started, 2),
        }

    def save(self, folder: Path) -> None:
        """Writes bitsandbytes' weights, config and tokenizer."""
        self.model.save_pretrained(folder, max_shard_size=self.config.max_shard_size)
        self.tokenizer.save_pretrained(folder)

    def _build_settings(self, dtype: Any) -> "BitsAndBytesConfig":
        from transformers import BitsAndBytesConfig

        return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
            load_in_4bit=self.config.gptq_bits == 4,
            load_in_8bit=self.config.gptq_bits == 8,
            llm_int8_threshold=self.config.llm_int8_threshold,
            llm_int8_skip_modules=list(self.plan.ignored),
            bnb_4bit_compute_dtype=dtype,
            bnb_4bit_use_double_quant=self.config.bnb_4bit_use_double_quant,
            bnb_4bit_quant_type=self.config.bnb_4bit_quant_type,
        )

    def _check_layers(self) -> None:
        from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt

        kind = Linear4bit if self.config.gptq_bits == 4 else Linear8bitLt
        whole = [name for name in self.plan.quantized if not isinstance(self.model.get_submodule(name), kind)]
        if whole:
            raise QuantizationError(f"bitsandbytes left {len(whole)} layers as they are, the first is {whole[0]}")
