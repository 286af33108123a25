"""The errors of the trainer, each with the code that a failed job carries.

TrainerError
├── ConfigError             the Config, or the steps asked of it, cannot work       (before anything runs)
├── UnknownKeyError         a registry has no such key                              (when a component is looked up)
├── PluginError             a plugin could not be loaded                            (at the start of a step)
├── NotYetSupportedError    a documented feature that has not been built            (before anything runs)
├── StepInputError          a step has no source for what it needs                  (at the start of a step)
├── DataError               rows that cannot be trained on                          (prepare; rarely train)
├── ModelLoadError          a model, tokenizer or adapter that cannot be loaded     (prepare, train, fuse, quantize)
├── FuseError               an adapter that cannot be merged rightly                (fuse)
├── QuantizationError       a model that cannot be quantized rightly                (quantize)
├── DiskFullError           no space left where the step writes                     (any step)
├── DeviceMemoryError       the GPU's memory does not hold the step                 (train, fuse, quantize)
├── HostMemoryError         the host's memory does not hold the step                (any step; retryable)
├── PushError               a hub that does not take what is pushed                 (before training; after a step)
├── NetworkError            a hub or a store did not answer                         (prepare, pushes; retryable)
└── StepInterrupted         a stop was asked for and obeyed: no failure             (any step; the job goes on later)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with what a user gave."""

    message: str
    """What is wrong and what to do, one sentence or two, naming the option."""
    param: str | None
    """The option's path, such as `load_in_4bit`; None when it is about the whole."""
    code: str
    """A machine's word for the kind of problem, such as `unknown_key`."""


class TrainerError(Exception):
    """Root of the tree. `retryable` says whether the same attempt may succeed when it is repeated."""

    code: ClassVar[str] = "trainer_error"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class ConfigError(TrainerError, ValueError):
    """Every problem found in a Config or in the steps asked for; `param` is the first problem's."""

    code = "invalid_config"

    def __init__(self, problems: Sequence[Problem]) -> None:
        if not problems:
            raise AssertionError("a ConfigError needs a problem")
        super().__init__("\n".join(problem.message for problem in problems), param=problems[0].param)
        self.problems = tuple(problems)

    def __reduce__(self) -> tuple[type["ConfigError"], tuple[tuple[Problem, ...]]]:
        return type(self), (self.problems,)


class UnknownKeyError(TrainerError, ValueError):
    """A registry does not know the key; the message names the nearest keys."""

    code = "unknown_key"


class PluginError(TrainerError):
    """A plugin's module, function or entry point could not be loaded or raised while registering."""

    code = "plugin_error"


class NotYetSupportedError(TrainerError):
    """The feature is documented and named, but not built."""

    code = "not_yet_supported"


class StepInputError(TrainerError, ValueError):
    """A step found no data, adapter or model to work on; the message names the ways to give one."""

    code = "missing_input"


class DataError(TrainerError, ValueError):
    """A row that cannot be used; the message names file, line and key."""

    code = "invalid_data"


class ModelLoadError(TrainerError, ValueError):
    """A model, tokenizer or adapter does not exist or cannot be loaded."""

    code = "model_not_loadable"


class FuseError(TrainerError, ValueError):
    """The adapter is empty, not finite, or does not fit the base."""

    code = "fuse_failed"


class QuantizationError(TrainerError, ValueError):
    """A layer failed, or the quantized model did not pass its own check."""

    code = "quantization_failed"


class DiskFullError(TrainerError):
    """Writing failed with ENOSPC."""

    code = "disk_full"


class DeviceMemoryError(TrainerError):
    """CUDA ran out of memory."""

    code = "cuda_out_of_memory"


class HostMemoryError(TrainerError):
    """The host's memory ran out: usually seen as a SIGKILL of the step by the kernel."""

    code = "host_out_of_memory"
    retryable = True


class PushError(TrainerError, ValueError):
    """A hub refuses a push: the token has no right to write, or the repository cannot be what is asked for."""

    code = "push_refused"


class NetworkError(TrainerError):
    """A hub or a store did not answer, or broke off."""

    code = "network"
    retryable = True


class StepInterrupted(TrainerError):
    """The step stopped because it was asked to, after saving what it could."""

    code = "interrupted"
    retryable = True
