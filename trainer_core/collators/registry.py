"""The registry of collators."""

from typing import TYPE_CHECKING

from trainer_core.registry import Registry

if TYPE_CHECKING:
    from trainer_core.collators.base import BaseCollator

collators_registry: "Registry[type[BaseCollator]]" = Registry("collators_registry")
collators_registry.add(key="default", value="trainer_core.collators.lm:LMCollator")
collators_registry.add(key="lm", value="trainer_core.collators.lm:LMCollator")
collators_registry.add(key="completion", value="trainer_core.collators.completion:CompletionCollator")
collators_registry.add(key="chat", value="trainer_core.collators.chat:ChatCollator")
