"""Tells a sampler which pass begins."""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trainer_core.tokenized.length_groups import LengthGroupedSampler


class SamplerEpochCallback(TrainerCallback):
    """Needed for a run on several GPUs that resumes within a pass: Trainer's word for it then ends in a wrapper, which
    skips the batches done and knows nothing of the sampler below, and the rest would be of another order."""

    def __init__(self, sampler: LengthGroupedSampler) -> None:
        self._sampler = sampler

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """`state.epoch` counts what was trained, also of the pass that is resumed."""
        self._sampler.set_epoch(int(state.epoch or 0))
