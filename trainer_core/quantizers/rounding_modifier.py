"""llm-compressor's rounding to the nearest value, made to account for every layer.

Importing this module imports llm-compressor, which takes about 8 s.
"""

from typing import Any

from pydantic import PrivateAttr

from trainer_core.quantizers.layer_watch import LayerWatch
from trainer_core.quantizers.library_noise import import_quietly

import_quietly("llmcompressor")

from compressed_tensors.utils import match_named_modules  # noqa: E402 - after the import that keeps quiet
from llmcompressor.modifiers.quantization import QuantizationModifier  # noqa: E402


class StrictRoundingModifier(QuantizationModifier):
    """Rounding that raises QuantizationError for weights that are not finite and for layers that were left out.

    The library itself leaves the scales of a layer that the model's run does not reach as they were allocated.
    """

    _watch: LayerWatch = PrivateAttr()
    _names: dict[Any, str] = PrivateAttr(default_factory=dict)

    def watch(self, watch: LayerWatch) -> None:
        """Sets who counts the layers; to be called before the modifier runs."""
        self._watch = watch

    def on_initialize(self, state: Any, **kwargs: Any) -> bool:
        """Attaches the scheme and remembers the layers' names."""
        done = super().on_initialize(state, **kwargs)
        matched = match_named_modules(state.model, self.resolved_targets, self.ignore)
        self._names = {module: name for name, module in matched}
        return bool(done)

    def on_sequential_epoch_end(self, state: Any, event: Any, modules: list[Any], **kwargs: Any) -> None:
        """Finds the scales of what the finished part of the model holds, then reports."""
        super().on_sequential_epoch_end(state, event, modules, **kwargs)
        for module in modules:
            if module in self._names:
                self._watch.finish(self._names[module], module)
        self._watch.report()

    def on_finalize(self, state: Any, **kwargs: Any) -> bool:
        """Raises for layers that were left out."""
        self._watch.check_all_finished()
        return bool(super().on_finalize(state, **kwargs))
