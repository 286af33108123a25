"""The registry of quantizers."""

from typing import TYPE_CHECKING

from trainer_core.registry import Registry

if TYPE_CHECKING:
    from trainer_core.quantizers.base import Quantizer

quantizers_registry: "Registry[type[Quantizer]]" = Registry("quantizers_registry")
quantizers_registry.add(key="gptq", value="trainer_core.quantizers.gptq:GPTQQuantizer")
