"""The registry of data sets."""

from typing import TYPE_CHECKING

from trainer_core.registry import Registry

if TYPE_CHECKING:
    from trainer_core.datasets.base import BaseDataset

datasets_registry: "Registry[type[BaseDataset]]" = Registry("datasets_registry")
datasets_registry.add(key="default", value="trainer_core.datasets.general:GeneralDataset")
datasets_registry.add(key="general", value="trainer_core.datasets.general:GeneralDataset")
datasets_registry.add(key="soda", value="trainer_core.datasets.soda:SodaDataset")
datasets_registry.add(key="chat", value="trainer_core.datasets.chat:ChatDataset")
