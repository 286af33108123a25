"""Checkpoints of activations that lie in host memory until the backward pass comes back to them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from trainer_core.kernels.replay import Surroundings

Run = Callable[..., torch.Tensor]


class OffloadedCheckpoint:
    """Runs one layer after another without keeping their activations; of each its input is kept, in host memory.

    Copies go over a stream of their own, beside the computation: an input leaves while its layer runs, and comes back
    while the layer after it is gone through backward. To be put in the place of a layer's checkpointing function.
    """

    is_recomputing = False
    """Whether a layer is run once more, for the gradients alone: nobody looks at its output."""

    def __init__(self) -> None:
        self._stream: torch.cuda.Stream | None = None
        self._kept: list[_KeptInput] = []

    def __call__(self, run: Run, hidden: torch.Tensor, *args: Any) -> torch.Tensor:
        """The layer's output. `run` takes the hidden states and `args`, and gives the hidden states that follow."""
        if args or not hidden.requires_grad:
            return run(hidden, *args)
        result: torch.Tensor = _Checkpoint.apply(hidden, run, self)  # type: ignore[no-untyped-call]
        return result

    @contextmanager
    def recomputing(self) -> Iterator[None]:
        """`is_recomputing` inside."""
        self.is_recomputing = True
        try:
            yield
        finally:
            self.is_recomputing = False

    def keep(self, hidden: torch.Tensor) -> "_KeptInput":
        """Starts an input's way to host memory."""
        if self._stream is None and hidden.is_cuda:
            self._stream = torch.cuda.Stream(hidden.device)  # type: ignore[no-untyped-call]
        kept = _KeptInput(hidden, stream=self._stream)
        self._kept.append(kept)
        return kept

    def forget(self) -> None:
        """Lets go of the inputs of a pass that will not be gone through backward."""
        self._kept.clear()

    def bring(self, kept: "_KeptInput") -> torch.Tensor:
        """An input on its device again; the one that will be asked for next is sent for at the same time."""
        hidden = kept.receive()
        if kept in self._kept:
            del self._kept[self._kept.index(kept) :]
        if self._kept:
            self._kept[-1].send_for()
        return hidden


class _KeptInput:
    """One input, on its device or in host memory."""

    def __init__(self, hidden: torch.Tensor, *, stream: torch.cuda.Stream | None) -> None:
        self._device = hidden.device
        self._stream = stream
        self._on_device: torch.Tensor | None = None
        if stream is None:
            self._on_host = hidden.detach()
            return
        self._on_host = torch.empty(hidden.shape, dtype=hidden.dtype, pin_memory=True)
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            self._on_host.copy_(hidden.detach(), non_blocking=True)
        # Its memory is not given to others before the copy is done.
        hidden.record_stream(stream)

    def send_for(self) -> None:
        if self._on_device is not None:
            return
        if self._stream is None:
            self._on_device = self._on_host
            return
        with torch.cuda.stream(self._stream):
            self._on_device = self._on_host.to(self._device, non_blocking=True)

    def receive(self) -> torch.Tensor:
        self.send_for()
        assert self._on_device is not None
        if self._stream is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_stream(self._stream)
            self._on_device.record_stream(current)
        hidden, self._on_device = self._on_device, None
        return hidden


class _Checkpoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, run: Run, store: OffloadedCheckpoint) -> torch.Tensor:
        ctx.run, ctx.store = run, store
        ctx.kept = store.keep(hidden)
        # Dropout is to drop the same numbers again.
        ctx.surroundings = Surroundings(hidden.device)
        with torch.no_grad():
            return run(hidden)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        hidden = ctx.store.bring(ctx.kept).detach().requires_grad_()
        with ctx.surroundings.again(), ctx.store.recomputing():
            # Of the result only the way to it is kept: its numbers are as large as the input's.
            edge = torch.autograd.graph.get_gradient_edge(ctx.run(hidden))
        torch.autograd.backward(edge, grads)
        return hidden.grad, None, None
