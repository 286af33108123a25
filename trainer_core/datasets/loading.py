"""Loading of prepared data as the Config says."""

from typing import Any

from trainer_core.config import Config
from trainer_core.datasets.base import BaseDataset
from trainer_core.datasets.data_keys import apply_data_keys
from trainer_core.datasets.registry import datasets_registry
from trainer_core.errors import UnknownKeyError


def get_dataset_class(config: Config) -> type[BaseDataset]:
    """The class of `dataset_key`, or of what the prepared data call for where it has its default.

    Raises UnknownKeyError for an unknown key, or a value that is no data set.
    """
    config = apply_data_keys(config)
    dataset_class = datasets_registry.get(config.dataset_key)
    if not (isinstance(dataset_class, type) and issubclass(dataset_class, BaseDataset)):
        raise UnknownKeyError(f"dataset_key {config.dataset_key!r} is not a subclass of BaseDataset")
    return dataset_class


def load_dataset(config: Config, path: str, **kwargs: Any) -> BaseDataset:
    """Reads a prepared file with the class of `get_dataset_class` and lets it take its settings from the Config.

    `kwargs` go to the constructor and win over the Config. Raises StepInputError for a file that is not there.
    """
    dataset = get_dataset_class(config).load(path=path, **kwargs)
    dataset.configure(config)
    return dataset
