"""Training in several processes: what Trainer is told, and the proof that the strategy took effect."""

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.distributed
from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trainer_core.config import Config
from trainer_core.config.parallel_checks import find_parallel_warnings, parse_fsdp_strategy, uses_deepspeed
from trainer_core.context import EventSink
from trainer_core.errors import ConfigError, Problem, TrainerError
from trainer_core.ranks import count_ranks, is_started_by_launcher
from trainer_core.trainers.deepspeed_settings import BUCKET, build_deepspeed_settings
from trainer_core.trainers.host_optimizer import can_build_host_adam
from trainer_core.trainers.zero_norm import measure_norm_at_once

_BITSANDBYTES_OPTIMIZERS = ("8bit", "32bit", "4bit", "paged_", "bnb")
_LOOPBACK = "127.0.0.1"


class StrategyError(TrainerError):
    """The Config's way of training in several processes did not take effect: raised before the first step."""

    code = "strategy_not_applied"


def check_parallel(config: Config) -> None:
    """Raises ConfigError for what cannot run as this process was started, before anything is loaded."""
    if uses_deepspeed(config):
        param = "deepspeed_config_path" if config.deepspeed_config_path is not None else "deepspeed_stage"
        if importlib.util.find_spec("deepspeed") is None:
            message = f"{param} needs the package deepspeed; install finesmith-server[deepspeed], or leave {param} out"
            raise ConfigError([Problem(message, param, "missing_package")])
        build_deepspeed_settings(config, is_on_gpu=torch.cuda.is_available())
        if config.single_gpu is False and not is_started_by_launcher():
            message = "single_gpu=False: DeepSpeed then wants its launcher; start with `deepspeed`, or set single_gpu"
            raise ConfigError([Problem(message, "single_gpu", "conflict")])
    if parse_fsdp_strategy(config.fsdp_strategy) is not None and not is_started_by_launcher():
        message = (
            f"fsdp_strategy={config.fsdp_strategy!r} shards over several processes, and there is one; give the job two "
            "GPUs or more, start a script with torchrun, or leave fsdp_strategy out"
        )
        raise ConfigError([Problem(message, "fsdp_strategy", "conflict")])
    if count_ranks() > 1 and config.device_map is not None:
        message = "device_map places the layers of one process; leave it at None, each process has a GPU of its own"
        raise ConfigError([Problem(message, "device_map", "conflict")])


def is_sharding_asked_for(config: Config) -> bool:
    """Whether DeepSpeed or FSDP is to train the model."""
    return uses_deepspeed(config) or parse_fsdp_strategy(config.fsdp_strategy) is not None


def build_parallel_options(config: Config, *, optimizer: str, events: EventSink) -> dict[str, Any]:
    """Options of TrainingArguments that stand above the plain ones; empty for one process without DeepSpeed.

    For DeepSpeed without a launcher this process becomes a group of one: RANK and its kind are set.
    """
    for problem in find_parallel_warnings(config):
        events.emit("warning", level="warning", message=problem.message, data={"param": problem.param})
    if uses_deepspeed(config):
        return _build_deepspeed_options(config, optimizer=optimizer, events=events)
    is_on_gpu = torch.cuda.is_available()
    # accelerate sees no other processes on the CPU unless it is told of it.
    on_cpu = {"use_cpu": True, "ddp_backend": "gloo"}
    strategy = parse_fsdp_strategy(config.fsdp_strategy)
    if strategy is None:
        return on_cpu if count_ranks() > 1 and not is_on_gpu else {}
    offloads = (config.fsdp_offload or strategy.offloads) and is_on_gpu
    if offloads:
        _tell_offload("the shards", key="fsdp_offload", off="False", events=events)
    # Norms of gradients and whole weights are gathered in host memory where shards lie there.
    backend = {"ddp_backend": "cuda:nccl,cpu:gloo"} if is_on_gpu else on_cpu
    settings = {"reshard_after_forward": strategy.reshards_after_forward, "cpu_offload": offloads}
    return backend | {
        "fsdp": True,
        "fsdp_config": settings,
        **_replace_optimizer(optimizer, config=config, events=events),
    }


def _build_deepspeed_options(config: Config, *, optimizer: str, events: EventSink) -> dict[str, Any]:
    if not is_started_by_launcher():
        _become_group_of_one(config.master_port)
    is_on_gpu = torch.cuda.is_available()
    on_cpu = {} if is_on_gpu else _prepare_for_cpu()
    settings = build_deepspeed_settings(config, is_on_gpu=is_on_gpu)
    if "optimizer" in settings:
        message = "the settings of deepspeed_config_path name an optimizer: optim and its options have no effect"
        events.emit("warning", level="warning", message=message, data={"param": "optim"})
        return {"deepspeed": settings, **on_cpu}
    options = _replace_optimizer(optimizer, config=config, events=events)
    offload = settings["zero_optimization"].get("offload_optimizer") or {}
    is_offloaded = offload.get("device", "none") != "none"
    if is_offloaded and config.deepspeed_config_path is None:
        what = "weights and optimizer" if "offload_param" in settings["zero_optimization"] else "the optimizer"
        _tell_offload(what, key="deepspeed_offload", off="'none'", events=events)
    if is_offloaded and "zero_force_ds_cpu_optimizer" not in settings:
        is_adam = options.get("optim", optimizer).startswith("adamw_torch")
        reason = can_build_host_adam() if is_adam else f"optim={optimizer!r} is no AdamW"
        if reason is not None:
            settings["zero_force_ds_cpu_optimizer"] = False
            message = f"torch's optimizer updates what is offloaded, more slowly than DeepSpeed's own: {reason}"
            events.emit("warning", level="warning", message=message, data={"param": "deepspeed_offload"})
    return {"deepspeed": settings, **options, **on_cpu}


def _tell_offload(what: str, *, key: str, off: str, events: EventSink) -> None:
    message = f"keeps {what} in host memory, for which steps take longer: where they fit on the GPUs, set {key}={off}"
    events.emit("decision", message=message, data={key: "on"})


def _replace_optimizer(optimizer: str, *, config: Config, events: EventSink) -> dict[str, str]:
    """bitsandbytes keeps blocks of state for whole tensors: over shards it is wrong or fails."""
    if not any(word in optimizer for word in _BITSANDBYTES_OPTIMIZERS):
        return {}
    cause = "DeepSpeed" if uses_deepspeed(config) else "FSDP"
    message = f"optim={optimizer!r} cannot work on the shards of {cause}; 'adamw_torch' takes its place"
    data = {"param": "optim", "wanted": optimizer, "used": "adamw_torch"}
    events.emit("warning", level="warning", message=message, data=data)
    return {"optim": "adamw_torch"}


def _become_group_of_one(port: int) -> None:
    """Meets itself at the port, or at a free one where another process of this host has taken that: alone, any will do.

    The group is made at once: between a look at a port and its use another process may take it.
    """
    build_store: Any = torch.distributed.TCPStore  # type: ignore[attr-defined]
    try:
        store = build_store(_LOOPBACK, port, world_size=1, is_master=True)
    except RuntimeError:
        store = build_store(_LOOPBACK, 0, world_size=1, is_master=True)
    place = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    os.environ.update(place, MASTER_ADDR=_LOOPBACK, MASTER_PORT=str(store.port))
    if torch.cuda.is_available():
        torch.cuda.set_device(0)
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)


def _prepare_for_cpu() -> dict[str, Any]:
    """Makes DeepSpeed run without a GPU, and returns the options of TrainingArguments that this takes."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed.ops
    from accelerate import PartialState
    from accelerate.state import AcceleratorState

    # DeepSpeed compiles collectives of its own for the CPU, for minutes; gloo's do as well.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # Left to itself, accelerate counts one process where there is no GPU.
    os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState(backend="gloo")
    return {"accelerator_config": {"use_configured_state": True}}


def check_filled_settings(arguments: TrainingArguments) -> None:
    """Raises ConfigError when a DeepSpeed file says otherwise than the Config, naming the file's keys."""
    filled = getattr(arguments, "hf_deepspeed_config", None)
    mismatches = getattr(filled, "mismatches", None)
    if mismatches:
        listed = "; ".join(each.strip(" -\n") for each in mismatches)
        param = "deepspeed_config_path"
        message = f"{param} says otherwise than the Config: {listed}; write 'auto' there"
        raise ConfigError([Problem(message, param, "conflict")])


def drop_cpu_number(arguments: TrainingArguments) -> None:
    """Has ranks on the CPU call it `cpu`: accelerate numbers it, and torch loads no checkpoint to a `cpu:1`."""
    cpu = torch.device("cpu")
    if arguments.device.type == cpu.type and arguments.device != cpu:
        arguments.distributed_state.device = cpu
        # TrainingArguments has looked once, and keeps what it saw.
        vars(arguments)["_setup_devices"] = cpu


def apply_fsdp_on_cpu(trainer: Trainer) -> None:
    """Has accelerate shard on the CPU too, where it would copy the whole model to every process and say nothing."""
    from accelerate import PartialState
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    accelerator = trainer.accelerator
    options = trainer.args.fsdp_plugin_args
    if options is None or accelerator.distributed_type is not DistributedType.MULTI_CPU:
        return
    accelerator.state.distributed_type = DistributedType.FSDP
    # Each new AcceleratorState takes over what is here.
    PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(**options)
    trainer.is_fsdp_enabled = True


def sum_gradients_in_fp32(trainer: Trainer) -> None:
    """Has FSDP add the ranks' gradients up in fp32, and leave what modules return as it is.

    accelerate does both in the 16 bits of the products, and rounds the loss to three digits.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy

    plugin: Any = getattr(trainer.accelerator.state, "fsdp_plugin", None)
    policy = getattr(plugin, "mixed_precision_policy", None)
    if isinstance(policy, MixedPrecisionPolicy):
        plugin.mixed_precision_policy = replace(policy, reduce_dtype=torch.float32, output_dtype=None)


def save_in_shards(trainer: Trainer) -> None:
    """Has each rank of FSDP write and read its own part of what a resumed training needs, all at the same time.

    For a trainer that gathers the weights which it saves for others by itself: Trainer would then save none.
    """
    plugin: Any = getattr(trainer.accelerator.state, "fsdp_plugin", None)
    if plugin is not None:
        plugin.state_dict_config = plugin.optim_state_dict_config = None
        plugin.set_state_dict_type("SHARDED_STATE_DICT")


class RankSums:
    """Adds numbers of all ranks by way of the host: to read one of the GPU waits for all that it still has to do."""

    def __init__(self) -> None:
        self._group: Any = None

    def add(self, number: int) -> int:
        """The sum; every rank has to come here as often as the others."""
        if count_ranks() == 1:
            return number
        if self._group is None:
            self._group = torch.distributed.new_group(backend="gloo")
        total = torch.tensor(number)
        torch.distributed.all_reduce(total, group=self._group)
        return int(total)


def wait_for_ranks() -> None:
    """Until all have come this far, with their GPUs: who ends while others gather from it has them wait for ever."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()


def describe_strategy(model: nn.Module) -> str:
    """How a model that Trainer has prepared is trained: `zero-<stage>`, `fsdp`, `ddp` or `single`."""
    from torch.distributed.fsdp import FSDPModule
    from torch.nn.parallel import DistributedDataParallel

    if type(model).__name__ == "DeepSpeedEngine":
        engine: Any = model
        return f"zero-{engine.zero_optimization_stage()}"
    if isinstance(model, FSDPModule):
        return "fsdp"
    return "ddp" if isinstance(model, DistributedDataParallel) else "single"


def is_sharded(trainer: Trainer) -> bool:
    """Whether each process holds a part of the weights only, once they are prepared."""
    return trainer.is_fsdp_enabled or keeps_weights_in_shards(trainer.args)


def keeps_weights_in_shards(arguments: TrainingArguments) -> bool:
    """Whether a layer's weights are whole only while the layer itself runs, as with ZeRO's stage 3."""
    settings = getattr(arguments, "hf_deepspeed_config", None)
    return bool(settings is not None and settings.is_zero3())


def gather_by_layers(model: Any, layers: Sequence[nn.Module]) -> None:
    """Has ZeRO's stage 3 make the weights of such a layer whole at once and for all of its run, not matrix by matrix:
    what is in it can then be compiled and reach for any of them. Before DeepSpeed takes the model over."""
    from deepspeed.runtime.zero import linear
    from deepspeed.utils import set_z3_leaf_module

    for layer in layers:
        set_z3_leaf_module(layer, True)
    linear.is_zero_param = _may_be_in_shards
    # A layer's gradients are taken when that of its input is there, and at once where there will be none.
    model.enable_input_require_grads()


def _may_be_in_shards(weight: Any) -> bool:
    """DeepSpeed's question before a linear layer's backward pass. Compiled is only what was made whole: the answer is
    then a constant, while asking the weight would have torch 2.11 compile each layer for the weight's number."""
    return not torch.compiler.is_compiling() and hasattr(weight, "ds_id")


def fit_buckets(arguments: TrainingArguments, model: nn.Module) -> None:
    """DeepSpeed allocates the memory that gradients are sent from in full: no more than there are gradients."""
    settings: Any = getattr(arguments, "hf_deepspeed_config", None)
    zero = {} if settings is None else settings.config["zero_optimization"]
    if isinstance(size := zero.get(BUCKET), int):
        trained = (weight for weight in model.parameters() if weight.requires_grad)
        zero[BUCKET] = min(size, max(1, sum(getattr(weight, "ds_numel", weight.numel()) for weight in trained)))


def is_prepared(trainer: Trainer) -> bool:
    """Whether DeepSpeed or FSDP, where one of them is to train, has taken the model over."""
    if not (trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled):
        return True
    return describe_strategy(trainer.model_wrapped) != "single"


def stop_sharding_loads() -> None:
    """Has models that are loaded from now on come whole: with ZeRO's stage 3 they come in shards."""
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()  # type: ignore[no-untyped-call]


class StrategyCallback(TrainerCallback):
    """Before the first step: compares how the model is really trained with what was asked for, and speeds ZeRO up."""

    def __init__(self, trainer: Trainer, *, config: Config, events: EventSink) -> None:
        self._trainer = trainer
        self._config = config
        self._events = events

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Raises StrategyError on a difference."""
        found = describe_strategy(self._trainer.model_wrapped)
        wanted, param = self._find_wanted()
        if found != wanted:
            value = f"{param}={getattr(self._config, param)!r}: " if param else ""
            message = f"{value}the model should be trained by {wanted}, but is by {found}; this is no training"
            raise StrategyError(message, param=param)
        if found.startswith("zero"):
            measure_norm_at_once(self._trainer.model_wrapped)
        num_processes = count_ranks()
        if state.is_world_process_zero and (num_processes > 1 or wanted != "single"):
            data = {
                "strategy": found,
                "num_processes": num_processes,
                "wrapper": type(self._trainer.model_wrapped).__name__,
            }
            self._events.emit("decision", message=f"trains by {found} in {num_processes} process(es)", data=data)

    def _find_wanted(self) -> tuple[str, str | None]:
        if self._config.deepspeed_config_path is not None:
            zero = self._trainer.args.hf_deepspeed_config.config.get("zero_optimization", {})
            return f"zero-{zero.get('stage', 0)}", "deepspeed_config_path"
        if self._config.deepspeed_stage > 0:
            return f"zero-{self._config.deepspeed_stage}", "deepspeed_stage"
        if parse_fsdp_strategy(self._config.fsdp_strategy) is not None:
            return "fsdp", "fsdp_strategy"
        return ("ddp" if count_ranks() > 1 else "single"), None
