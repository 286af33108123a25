"""The trainer of causal language models."""

import logging
from typing import Any

from torch import nn
from torch.utils.data import Dataset
from transformers import DataCollator, PreTrainedModel, TrainingArguments

from trainer_core.config import Config
from trainer_core.trainers.row_trainer import RowTrainer

IGNORED_LABEL = -100
"""Label of a token that is not learned; the models' own losses know no other."""

_logger = logging.getLogger(__name__)


class LMTrainer(RowTrainer):
    """Trains on the model's own loss, normalised by the supervised tokens of the whole optimizer step.

    Labels stand at their own token (the model shifts them) and are -100 where nothing is learned. `compute_loss` is
    transformers' own: with it, the loss is the same however a step is cut into accumulated batches, also under label
    smoothing. A batch without any supervised token gives a loss of 0 and no gradient.
    """

    def __init__(  # noqa: PLR0913 - the signature that subclasses written for X-LLM rely on
        self,
        config: Config,
        model: PreTrainedModel | nn.Module,
        args: TrainingArguments,
        data_collator: DataCollator,
        train_dataset: Dataset[Any],
        ignore_index: int = IGNORED_LABEL,
        eval_dataset: Dataset[Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """`kwargs` go to transformers' Trainer. `config`, `ignore_index` and `criterion` are kept for subclasses that
        compute a loss of their own."""
        self.config = config
        self.ignore_index = ignore_index
        if ignore_index != IGNORED_LABEL:
            _logger.warning("ignore_index=%d: the model's own loss ignores %d only", ignore_index, IGNORED_LABEL)
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            **kwargs,
        )
        self.criterion = nn.CrossEntropyLoss(ignore_index=ignore_index, label_smoothing=args.label_smoothing_factor)
