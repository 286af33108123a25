"""A Trainer that takes rows of whole samples, several to an optimizer step, as well as padded batches."""

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
from peft import PeftModel, PeftType
from torch import nn
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader, Sampler
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME

from trainer_core.kernels.fused_loss import FusedLoss
from trainer_core.padding_free.attention import RowAttention
from trainer_core.padding_free.collator import is_row_batch
from trainer_core.padding_free.rows import Row, split_row
from trainer_core.padding_free.sampler import TokenBudgetSampler
from trainer_core.trainers.late_logging import LateLoggingTrainer
from trainer_core.trainers.parallel import RankSums, describe_strategy, keeps_weights_in_shards
from trainer_core.trainers.quick_walks import QuickWalks
from trainer_core.trainers.speed_meter import SpeedMeter

OVERRIDES = (
    "compute_loss",
    "training_step",
    "prediction_step",
    "get_batch_samples",
    "get_train_dataloader",
    "_get_num_items_in_batch",
    "_track_num_input_tokens",
)
"""What a subclass may override; one that does gets the padded batches that it was written for."""


class RowTrainer(LateLoggingTrainer):
    """Adds to Trainer what rows need; with padded batches it is Trainer.

    A batch of rows holds all samples of an optimizer step: their rows are run one after the other, and their gradients
    add up to those of one pass over all.
    """

    row_attention: RowAttention | None = None
    """Lets the model take rows; there is none where batches are padded."""
    fused_loss: FusedLoss | None = None
    """Computes the loss of rows without their logits; None: the model's own loss."""
    token_budget: TokenBudgetSampler | None = None
    """Which samples make a row, in place of a count of samples; None: the count."""
    length_sampler: Sampler[int] | None = None
    """The order of samples that are padded; None: Trainer's."""
    padding_collator: Any = None
    """Makes the batches of what looks at logits: metrics, predictions. None: the training's collator does."""
    can_halve = True
    """Whether a step may run in more and smaller passes when the device's memory is too small: what a pass does to the
    weights, or adds to the loss, then has to be a sum over its samples."""
    on_halved: Callable[[str], None] | None = None
    """Called with what is smaller from now on, as a sentence's middle, when the device's memory was too small."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As Trainer."""
        self.speed = SpeedMeter()
        self._most_tokens: int | None = None
        self._most_samples: int | None = None
        self._accumulated: list[Any] = []
        self._walks: QuickWalks | None = None
        self._sums = RankSums()
        self._kept_loaders: dict[bool, dict[str, Any]] = {}
        super().__init__(*args, **kwargs)
        assert self.model is not None
        self._dtypes = {name: weight.dtype for name, weight in self.model.named_parameters()}

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As Trainer."""
        try:
            return super().train(*args, **kwargs)
        finally:
            if self._walks is not None:
                self._walks.close()
                self._walks = None

    def get_train_dataloader(self) -> DataLoader[Any]:
        """With a token budget each batch is one row of it, and each rank's loader knows its own."""
        if self.token_budget is None:
            return super().get_train_dataloader()
        arguments = self.args
        dataset: Any = self.train_dataset
        return _RowLoader(
            dataset,
            batch_sampler=self.token_budget,
            collate_fn=self.data_collator,
            num_workers=arguments.dataloader_num_workers,
            pin_memory=arguments.dataloader_pin_memory,
            persistent_workers=arguments.dataloader_persistent_workers,
            prefetch_factor=arguments.dataloader_prefetch_factor,
        )

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """As Trainer; for metrics of its user's own the batches are padded, as these expect.

        Trainer keeps one loader whose workers live on, and would take it for any data set that is passed, too.
        """
        is_padded = bool(self.compute_metrics or self.preprocess_logits_for_metrics)
        is_of_trainer = eval_dataset is None or isinstance(eval_dataset, str) or eval_dataset is self.eval_dataset
        self._eval_dataloaders = self._kept_loaders.setdefault(is_padded, {}) if is_of_trainer else {}
        with self._padding() if is_padded else contextlib.nullcontext():
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader[Any]:
        """As Trainer, with padded batches: a prediction is made of logits, which rows do not give."""
        with self._padding():
            return super().get_test_dataloader(test_dataset)

    @contextlib.contextmanager
    def _padding(self) -> Iterator[None]:
        collator = self.data_collator
        self.data_collator = self.padding_collator or collator
        try:
            yield
        finally:
            self.data_collator = collator

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[Any] | None:
        return self.length_sampler or super()._get_train_sampler(train_dataset)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As Trainer, but below FSDP and DeepSpeed no base of a LoRA is copied to host memory, tied weights are written
        once, and all weights in the types that they came in, whatever the masters' is."""
        if not self._gathers_weights():
            super().save_model(output_dir, _internal_call=_internal_call)
            return
        assert self.model is not None
        # With FSDP all ranks take part, tensor by tensor, and rank 0 alone keeps what comes.
        whole: dict[str, torch.Tensor] = {}
        copies: dict[int, torch.Tensor] = {}
        for name, weight in self.model.state_dict(keep_vars=True).items():
            if self._is_lora and not weight.requires_grad:
                continue
            if id(weight) not in copies:
                gathered = weight.full_tensor() if isinstance(weight, DTensor) else weight
                dtype = self._dtypes.get(name, gathered.dtype)
                copies[id(weight)] = (
                    gathered.detach().to("cpu", dtype, copy=True) if self.args.should_save else torch.empty(0)
                )
            whole[name] = copies[id(weight)]
        if self.args.should_save:
            self._save(output_dir or self.args.output_dir, state_dict=whole)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """As Trainer, but with DDP the last rank writes the optimizer's state while the first writes the weights."""
        if self.args.world_size == 1 or self.is_fsdp_enabled or self.is_deepspeed_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        if self.args.process_index == self.args.world_size - 1:
            assert self.optimizer is not None
            os.makedirs(output_dir, exist_ok=True)
            torch.save(self.optimizer.state_dict(), os.path.join(output_dir, OPTIMIZER_NAME))
        if self.args.should_save:
            assert self.lr_scheduler is not None
            torch.save(self.lr_scheduler.state_dict(), os.path.join(output_dir, SCHEDULER_NAME))

    def _gathers_weights(self) -> bool:
        return self.is_fsdp_enabled or (self.is_deepspeed_enabled and not keeps_weights_in_shards(self.args))

    @property
    def _is_lora(self) -> bool:
        model: Any = self.model
        return isinstance(model, PeftModel) and model.active_peft_config.peft_type is PeftType.LORA

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[Any], torch.Tensor | int | None]:
        """Counts the time that the training waits for its data."""
        with self.speed.waiting():
            return super().get_batch_samples(*args, **kwargs)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor | int | None:
        """The supervised tokens, at least 1: the sum over none is 0, and 0 / 0 would make every weight NaN."""
        if batch_samples and is_row_batch(batch_samples[0]):
            num_targets = sum(row.num_targets for batch in batch_samples for row in batch["rows"])
            return max(1, self._sums.add(num_targets))
        num_items = super()._get_num_items_in_batch(batch_samples, device)
        if isinstance(num_items, torch.Tensor):
            return num_items.clamp(min=1)
        return num_items if num_items is None else max(num_items, 1)

    def training_step(
        self, model: nn.Module, inputs: Any, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Runs the rows of a step, or one padded batch. Out of memory: begins the step anew in smaller parts."""
        if self._walks is None:
            self._walks = QuickWalks(model, is_whole=describe_strategy(model) in ("single", "ddp"))
        batches = [inputs]
        while True:
            parts: list[Any] = []
            try:
                for batch in batches:
                    parts = self._cut(batch)
                    loss = self._run_parts(model, parts, num_items_in_batch)
            except torch.cuda.OutOfMemoryError:
                if num_items_in_batch is None or not self._halve(parts):
                    raise
            else:
                self._accumulated = [] if self.accelerator.sync_gradients else [*self._accumulated, inputs]
                self.tell_late_record()
                return loss
            # What the failed pass holds is let go of with its error, after the handler has been left. The gradients of
            # the step's earlier batches go too, and are computed again.
            batches = [*self._accumulated, inputs]
            model.zero_grad()
            torch.cuda.empty_cache()

    def _must_log_at_once(self) -> bool:
        """A step of a subclass's own may tell of it elsewhere than this one does."""
        return type(self).training_step is not RowTrainer.training_step or super()._must_log_at_once()

    def _cut(self, inputs: Any) -> list[Any]:
        """What runs in one pass each: parts of at most the size that has been found to fit."""
        if is_row_batch(inputs):
            return self._fit_rows([row.to(self.args.device, non_blocking=True) for row in inputs["rows"]])
        if self._most_samples is None:
            return [inputs]
        pieces: dict[str, Any] = {name: torch.split(value, self._most_samples) for name, value in inputs.items()}
        return [dict(zip(pieces, values, strict=True)) for values in zip(*pieces.values(), strict=True)]

    def _run_parts(
        self, model: nn.Module, parts: list[Any], num_items_in_batch: torch.Tensor | int | None
    ) -> torch.Tensor:
        losses = []
        for part in parts:
            context = contextlib.nullcontext() if part is parts[-1] else self.accelerator.no_sync(model)
            running = self._running(part) if isinstance(part, Row) else contextlib.nullcontext()
            with context, running:
                inputs: Any = part.inputs if isinstance(part, Row) else part
                losses.append(super().training_step(model, inputs, num_items_in_batch))
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def _halve(self, parts: list[Any]) -> bool:
        """Whether the step can begin anew in smaller parts. Not on several GPUs, which would wait for each other, nor
        with DeepSpeed, which has gradients of its own."""
        if not parts or not self.can_halve or self.args.world_size > 1 or self.is_deepspeed_enabled:
            return False
        if isinstance(parts[0], Row):
            if max(row.num_samples for row in parts) == 1:
                return False
            self._most_tokens = max(1, max(row.num_tokens for row in parts) // 2)
            self._tell_halved(f"rows have {self._most_tokens} tokens")
            return True
        tensors = [value for value in parts[0].values() if isinstance(value, torch.Tensor) and value.dim()]
        if len(tensors) < len(parts[0]) or len({len(value) for value in tensors}) != 1 or len(tensors[0]) == 1:
            return False
        self._most_samples = len(tensors[0]) // 2
        self._tell_halved(f"passes have {self._most_samples} samples")
        return True

    def _tell_halved(self, what: str) -> None:
        if self.on_halved is not None:
            self.on_halved(what)

    def _fit_rows(self, rows: list[Row]) -> list[Row]:
        """Rows of at most as many tokens as have been found to fit."""
        if self._most_tokens is None:
            return rows
        fitting: list[Row] = []
        waiting = list(reversed(rows))
        while waiting:
            row = waiting.pop()
            halves = split_row(row) if row.num_tokens > self._most_tokens else None
            if halves is None:
                fitting.append(row)
            else:
                waiting += reversed(halves)
        return fitting

    def prediction_step(
        self, model: nn.Module, inputs: Any, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[torch.Tensor | None, Any, Any]:
        """Of rows there is the loss alone: the mean over their supervised tokens."""
        if not is_row_batch(inputs):
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys=ignore_keys)
        rows = [row.to(self.args.device, non_blocking=True) for row in inputs["rows"]]
        num_targets = max(1, sum(row.num_targets for row in rows))
        # compute_loss takes the number to be that of all ranks, whose losses are averaged later.
        num_items = num_targets * (self.args.world_size if self.args.average_tokens_across_devices else 1)
        losses = []
        for row in rows:
            with torch.no_grad(), self.compute_loss_context_manager(), self._running(row):
                loss: Any = self.compute_loss(model, dict(row.inputs), num_items_in_batch=num_items)
                losses.append(loss)
        return torch.stack(losses).sum().detach(), None, None

    @contextlib.contextmanager
    def _running(self, row: Row) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            if self.row_attention is not None:
                stack.enter_context(self.row_attention.active(has_one_sample=row.is_one_long_sample))
            if self.fused_loss is not None:
                stack.enter_context(self.fused_loss.over(row.target_index_K, row.target_ids_K))
            yield

    def _track_num_input_tokens(self, inputs: Any) -> None:
        """Counted where the rows were made: looking at the device would wait for it."""
        if not is_row_batch(inputs):
            super()._track_num_input_tokens(inputs)  # type: ignore[no-untyped-call]
            if "attention_mask" in inputs:
                mask = inputs["attention_mask"]
                self.speed.add_batch(num_tokens=int(mask.sum()), num_places=mask.numel())
            return
        num_tokens = sum(row.num_tokens for row in inputs["rows"])
        num_places = sum(row.inputs["input_ids"].numel() for row in inputs["rows"])
        self.speed.add_batch(num_tokens=num_tokens, num_places=num_places)
        self.state.num_input_tokens_seen += self._sums.add(num_tokens)

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted for rows: Trainer would walk over all parameters each time, for a figure that nobody reads."""
        return 0 if is_row_batch(inputs) else super().floating_point_ops(inputs)


class _RowLoader(DataLoader[Any]):
    """Tells its sampler of each new pass, as the training loop tells it."""

    def set_epoch(self, epoch: int) -> None:
        """Called before each pass."""
        sampler: Any = self.batch_sampler
        sampler.set_epoch(epoch)
