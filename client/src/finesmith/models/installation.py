"""What an installation can do and how it is: registries, workers, health, the verdict on a submission."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from finesmith.errors import ErrorDetail
from finesmith.wire import JsonValue


@dataclass(frozen=True)
class Registries:
    """The keys that a Config may name, as the workers announced them."""

    datasets: tuple[str, ...] = ()
    """Values of `dataset_key`."""
    collators: tuple[str, ...] = ()
    """Values of `collator_key`."""
    trainers: tuple[str, ...] = ()
    """Values of `trainer_key`."""
    experiments: tuple[str, ...] = ()
    """Values of `experiment_key`."""
    quantizers: tuple[str, ...] = ()
    """Values of `quantizer_key`."""
    configs: tuple[str, ...] = ()
    """Values of `config_key`."""
    extra: Mapping[str, JsonValue] = field(default_factory=dict)
    """Registries that this version of the SDK does not know."""


@dataclass(frozen=True)
class Gpu:
    """One GPU of a worker's host."""

    index: int = 0
    """Its number on the host, from 0."""
    name: str = ""
    """As its driver calls it."""
    memory_bytes: int | None = None
    """Its whole memory in bytes; None if unknown."""


@dataclass(frozen=True)
class PluginError:
    """A plugin that a worker could not load."""

    plugin: str = ""
    """Its entry point's name, or `module:function`."""
    message: str = ""
    """What it raised."""


@dataclass(frozen=True)
class Worker:
    """A process that runs jobs."""

    id: str
    """`wrk-…`."""
    host: str = ""
    """Name of the machine that it runs on."""
    gpus: tuple[Gpu, ...] = ()
    """The GPUs that it gives to jobs; empty on a CPU host."""
    slots: int = 1
    """How many jobs it runs at once."""
    status: str = "online"
    """`online` or `offline`."""
    version: str | None = None
    """Version of the service's software on it."""
    last_seen_at: float | None = None
    """When it last reported, in Unix seconds."""
    plugin_errors: tuple[PluginError, ...] = ()
    """Plugins that it could not load."""
    extra: Mapping[str, JsonValue] = field(default_factory=dict)
    """Fields that this version of the SDK does not know."""


@dataclass(frozen=True)
class Health:
    """Whether the service can take jobs now."""

    status: str
    """`ready`; `degraded`: it takes jobs although a part is away; `unavailable`."""
    checks: Mapping[str, JsonValue] = field(default_factory=dict)
    """`ok` or what is wrong, by part."""
    extra: Mapping[str, JsonValue] = field(default_factory=dict)
    """Fields that this version of the SDK does not know."""

    @property
    def is_ready(self) -> bool:
        """True if the service takes jobs."""
        return self.status in ("ready", "degraded")


@dataclass(frozen=True)
class Validation:
    """What the service would do with a submission."""

    valid: bool
    """True if the same submission would be accepted now."""
    config: Mapping[str, JsonValue] = field(default_factory=dict)
    """The config with every default filled in; empty when it is not valid."""
    steps: tuple[str, ...] = ()
    """The steps that would run, in order."""
    warnings: tuple[str, ...] = ()
    """What is allowed but probably not meant."""
    problems: tuple[ErrorDetail, ...] = ()
    """Everything that is wrong; empty when valid."""
