"""The step prepare, as far as it goes without a job: a few rows are checked."""

import importlib

from trainer_core.collators.building import build_collator
from trainer_core.collators.label_check import check_labels
from trainer_core.collators.row_check import check_rows
from trainer_core.config import Config
from trainer_core.datasets.general import GeneralDataset
from trainer_core.rehearsal.parts import FAMILIES, build_rows, build_tokenizer

_MODULES = (
    "trainer_core.steps.prepare",
    "transformers.models.auto.tokenization_auto",
    *(f"transformers.models.{name}.configuration_{name}" for name in FAMILIES),
)


def rehearse() -> None:
    """Checks rows as prepare does. Call it within `without_devices`."""
    for name in _MODULES:
        importlib.import_module(name)
    config = Config(model_name_or_path="rehearsal", dataset_key="general", collator_key="lm", max_length=16)
    dataset = GeneralDataset(build_rows())
    collator = build_collator(config, build_tokenizer())
    check_rows(dataset, collator, locate=str, num_rows=len(dataset))
    check_labels(dataset, collator, num_rows=len(dataset))
