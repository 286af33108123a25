"""Which layers compute their activations again, so that what is kept fits a budget."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trainer_core.kernels.compiled_layers import find_layers
from trainer_core.kernels.layer_inputs import find_inputs
from trainer_core.kernels.offloaded_checkpoint import OffloadedCheckpoint
from trainer_core.padding_free.attention import RowAttention
from trainer_core.padding_free.rows import Row

_GIB = 2**30


def count_checkpointed(
    model: Any,
    *,
    row: Row,
    row_attention: RowAttention,
    capacity: int,
    budget_gib: float,
    is_offloading: bool,
) -> int:
    """How many layers must compute anew so that the others' activations of a row of `capacity` tokens fit the budget.

    Runs the first layer on `row` and looks at what it keeps: the model must be as it will be trained, compiled or with
    its kernels. A layer that computes anew keeps its input, or nothing where inputs go to host memory.
    """
    layers = find_layers(model)
    model.train()
    with row_attention.active():
        layer_bytes = measure_layer_bytes(layers[0], run=lambda: model(**row.inputs))
    num_tokens = row.inputs["input_ids"].numel()
    layer_bytes = layer_bytes * capacity // num_tokens
    width = model.config.get_text_config().hidden_size
    input_bytes = 0 if is_offloading else capacity * width * model.get_input_embeddings().weight.element_size()
    excess = len(layers) * layer_bytes - budget_gib * _GIB
    spared = max(1, layer_bytes - input_bytes)
    return min(len(layers), max(0, int(-(-excess // spared))))


def measure_layer_bytes(layer: Any, *, run: Callable[[], object]) -> int:
    """Bytes that a layer keeps for its backward pass, its output among them, when `run` runs the model forward."""
    args, kwargs = find_inputs(layer, run=run)
    if not next(layer.parameters()).is_cuda:
        return _sum_saved_bytes(layer, run=lambda: layer(*args, **kwargs))
    # The first call compiles, and takes what libraries keep for good.
    layer(*args, **kwargs)
    before = torch.cuda.memory_allocated()
    output = layer(*args, **kwargs)
    kept = torch.cuda.memory_allocated() - before
    del output
    return kept


def _sum_saved_bytes(layer: nn.Module, *, run: Callable[[], object]) -> int:
    weights = {each.untyped_storage().data_ptr() for each in (*layer.parameters(), *layer.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            # Held on to: the address of one that was let go of may be given to another.
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(storage.nbytes() for storage in kept.values())


class CheckpointedLayers(TrainerCallback):
    """Leaves checkpointing to the first layers, after the trainer has turned it on for all."""

    def __init__(self, model: Any, *, num_layers: int, store: OffloadedCheckpoint | None) -> None:
        """`store`: keeps the inputs of these layers in host memory; None: they stay on the device."""
        self._model = model
        self._num_layers = num_layers
        self._store = store

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Before the first step."""
        layers: list[Any] = find_layers(self._model)
        for number, layer in enumerate(layers):
            layer.gradient_checkpointing = number < self._num_layers
            if self._store is not None:
                layer._gradient_checkpointing_func = self._store
