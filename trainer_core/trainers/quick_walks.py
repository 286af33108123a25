"""What Trainer asks a model for in every step, answered from lists.

Modules and weights do not change while a model is trained; to walk over the 1,500 modules of eight billion parameters
with adapters takes Python 5 ms each time, in which the GPU waits.
"""

from collections.abc import Iterator

from torch import nn


class QuickWalks:
    """Takes the place of a model's `train` and `parameters` until `close`."""

    def __init__(self, model: nn.Module) -> None:
        """`model`: as Trainer has prepared it, whole on each rank."""
        self._model = model
        self._modules = list(model.modules())
        self._parameters = list(model.parameters())
        self._plain_train = model.train
        self._plain_parameters = model.parameters
        vars(model).update(train=self._train, parameters=self._iterate)

    def close(self) -> None:
        """Leaves the model as it was."""
        for name in ("train", "parameters"):
            del vars(self._model)[name]

    def _train(self, mode: bool = True) -> nn.Module:
        if any(module.training is not mode for module in self._modules):
            self._plain_train(mode)
        return self._model

    def _iterate(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        return iter(self._parameters) if recurse else self._plain_parameters(recurse)
