"""Training data as tokens that were made once, where that is exact."""

from typing import Any

from trainer_core.config import Config
from trainer_core.experiments.parts import ExperimentParts
from trainer_core.padding_free.collator import RowCollator
from trainer_core.tokenized import LengthGroupedSampler, find_obstacle, find_token_cache, tokenize_rows
from trainer_core.trainers.building import get_trainer_class
from trainer_core.trainers.row_trainer import RowTrainer


class TokenData(ExperimentParts):
    """Puts tokens in the place of texts before the trainer is built; afterwards `train_dataset` gives TokenizedSamples.

    The data set that was built or given stays below it, and `collator` makes the same batches as before.
    """

    _has_tokens = False

    def choose_tokens(self) -> None:
        """Tokenises training and evaluation data, or finds them in the cache. Raises what a bad row raises in training.

        A cache that cannot be written is a warning: texts are then tokenised in every pass.
        """
        collator: Any = self.collator
        datasets: dict[str, Any] = {"train_dataset": self.train_dataset, "eval_dataset": self.eval_dataset}
        given = {name: dataset for name, dataset in datasets.items() if dataset is not None}
        obstacle = self._find_token_obstacle(given)
        if obstacle is None:
            try:
                rows = {name: self._tokenize(dataset, collator) for name, dataset in given.items()}
            except OSError as error:
                self._tell_warning(f"the cache of tokens cannot be used ({error}): texts are tokenised in every pass")
                return
            self.train_dataset = rows["train_dataset"]
            self.eval_dataset = rows.get("eval_dataset")
            self._has_tokens = True
            was_cached = all(each.was_cached for each in rows.values())
            message = "finds its samples tokenised" if was_cached else "tokenises its samples once"
            self._tell("decision", message, tokenize_once="on", was_cached=was_cached)
        elif self.config.tokenize_once == "auto":
            message = f"tokenises its samples in every pass: {obstacle}"
            self._tell("decision", message, tokenize_once="off", reason=obstacle)

    def pad_tokens(self) -> None:
        """For batches that are padded: a collator that takes tokens."""
        if self._has_tokens and not isinstance(self.collator, RowCollator):
            collator: Any = self.collator
            self.collator = collator.pad

    def build_length_sampler(self) -> LengthGroupedSampler | None:
        """Batches of samples of like length, where they are padded and asked for."""
        config, arguments = self.config, self.training_arguments
        if not config.group_by_length or isinstance(self.collator, RowCollator):
            return None
        if not self._has_tokens:
            self._tell_warning("group_by_length has no effect: the lengths are known of samples tokenised once only")
            return None
        assert arguments is not None
        dataset: Any = self.train_dataset
        step_size = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps
        return LengthGroupedSampler(
            dataset.lengths, step_size=step_size * max(1, arguments.world_size), seed=config.seed
        )

    def _find_token_obstacle(self, given: dict[str, Any]) -> str | None:
        if self.config.tokenize_once == "off":
            return "tokenize_once is 'off'"
        if not issubclass(get_trainer_class(self.config), RowTrainer):
            return "the trainer is none of ours"
        return next((found for each in given.values() if (found := find_obstacle(each, self.collator))), None)

    def _tokenize(self, dataset: Any, collator: Any) -> Any:
        return tokenize_rows(dataset, collator, folder=find_token_cache(), should_stop=lambda: self.context.stop.is_set)


def choose_num_loaders(config: Config, *, is_on_gpu: bool, num_cores: int, has_tokens: bool) -> int:
    """Processes that make batches ahead: a batch of tokens takes a millisecond, one of texts perhaps a step."""
    if config.dataloader_num_workers is not None:
        return config.dataloader_num_workers
    return 2 if is_on_gpu and num_cores >= 4 and not has_tokens else 0
