"""All components, added before a step runs."""

from my_project.core.collator import MyCollator
from my_project.core.dataset import MyDataset
from my_project.core.experiment import MyExperiment
from my_project.core.trainer import MyTrainer
from trainer_core.collators import collators_registry
from trainer_core.datasets import datasets_registry
from trainer_core.experiments import experiments_registry
from trainer_core.trainers import trainers_registry


def registry_components() -> None:
    """Keywords as the documentation gives them."""
    datasets_registry.add(key="my_new_dataset", value=MyDataset)
    collators_registry.add(key="my_new_collator", value=MyCollator)
    trainers_registry.add(key="my_new_trainer", value=MyTrainer)
    experiments_registry.add(key="my_new_experiment", value=MyExperiment)
