"""The registry of quantizers."""

from typing import TYPE_CHECKING

from trainer_core.registry import Registry

if TYPE_CHECKING:
    from trainer_core.quantizers.base import Quantizer

quantizers_registry: "Registry[type[Quantizer]]" = Registry("quantizers_registry")
quantizers_registry.add(key="gptq", value="trainer_core.quantizers.gptq:GPTQQuantizer")
quantizers_registry.add(key="awq", value="trainer_core.quantizers.awq:AWQQuantizer")
quantizers_registry.add(key="fp8", value="trainer_core.quantizers.fp8:FP8Quantizer")
quantizers_registry.add(key="w8a8", value="trainer_core.quantizers.w8a8:W8A8Quantizer")
quantizers_registry.add(key="bnb", value="trainer_core.quantizers.bnb:BnbQuantizer")
