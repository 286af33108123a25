"""What this project adds to Finesmith.

The values are lazy, `module:class`: a worker lists the keys without importing torch.
"""

from trainer_core.collators import collators_registry
from trainer_core.config import configs_registry
from trainer_core.datasets import datasets_registry
from trainer_core.experiments import experiments_registry
from trainer_core.trainers import trainers_registry


def register_components() -> None:
    """Adds every component under the key `glossary`."""
    configs_registry.add(key="glossary", value="glossary.core.config:GlossaryConfig")
    datasets_registry.add(key="glossary", value="glossary.core.dataset:GlossaryDataset")
    collators_registry.add(key="glossary", value="glossary.core.collator:GlossaryCollator")
    trainers_registry.add(key="glossary", value="glossary.core.trainer:FocalTrainer")
    experiments_registry.add(key="glossary", value="glossary.core.experiment:GlossaryExperiment")
