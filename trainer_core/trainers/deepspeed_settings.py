"""The settings that DeepSpeed is started with: the built-in ones of a stage, or a file's."""

import json
from pathlib import Path
from typing import Any

from trainer_core.config import Config
from trainer_core.config.parallel_checks import describe_quantized_stage_3
from trainer_core.errors import ConfigError, Problem

_PERSISTENCE = "stage3_param_persistence_threshold"
_GATHER_ON_SAVE = "stage3_gather_16bit_weights_on_model_save"
BUCKET = "reduce_bucket_size"
_BUCKET_SIZE = 500_000_000
"""Elements that are sent at once: more than a layer or an embedding of most models has."""
_DECAYING_SCHEDULERS = ("WarmupDecayLR", "WarmupCosineLR")


def build_deepspeed_settings(config: Config, *, is_on_gpu: bool) -> dict[str, Any]:
    """The settings as a JSON object; `auto` is filled in by transformers. Raises ConfigError for a file that cannot do.

    Without a GPU nothing is offloaded: everything lies in host memory already.
    """
    if config.deepspeed_config_path is not None:
        return _read_settings(config)
    offload = choose_offload(config) if is_on_gpu else "none"
    return {
        "zero_optimization": _build_zero(config.deepspeed_stage, offload=offload),
        # Optimizer and schedule are the Config's own; DeepSpeed need not know them by name.
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": "auto"},
        "fp16": {
            "enabled": "auto",
            "loss_scale": 0,
            "loss_scale_window": 1000,
            "initial_scale_power": 16,
            "hysteresis": 2,
            "min_loss_scale": 1,
        },
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "steps_per_print": 2000,
        # To measure, these would have the GPU wait for the host twice a step.
        "timers": {"throughput": {"enabled": False}},
        "wall_clock_breakdown": False,
    }


def choose_offload(config: Config) -> str:
    """What of `none`, `optimizer` and `all` the built-in settings of the Config's stage do on a GPU."""
    if config.deepspeed_offload == "none":
        return "none"
    wants_all = config.deepspeed_offload in ("auto", "all")
    return "all" if wants_all and config.deepspeed_stage == 3 else "optimizer"


def _build_zero(stage: int, *, offload: str) -> dict[str, Any]:
    zero: dict[str, Any] = {"stage": stage, "contiguous_gradients": True, "overlap_comm": offload != "all"}
    if stage == 3:
        # Whole layers are gathered: the next one is on its way while the last one runs. Small weights that stay on
        # every GPU would be sent one by one after each step, and an adapter has hundreds.
        on_device = {BUCKET: _BUCKET_SIZE, "stage3_prefetch_bucket_size": _BUCKET_SIZE, _PERSISTENCE: 0}
        in_host_memory = {BUCKET: "auto", "stage3_prefetch_bucket_size": "auto", _PERSISTENCE: "auto"}
        zero |= {
            "sub_group_size": 1_000_000_000,
            **(in_host_memory if offload == "all" else on_device),
            "stage3_max_live_parameters": 1_000_000_000,
            "stage3_max_reuse_distance": 1_000_000_000,
            _GATHER_ON_SAVE: True,
        }
    else:
        zero |= {
            "allgather_partitions": True,
            "allgather_bucket_size": _BUCKET_SIZE,
            "reduce_scatter": True,
            BUCKET: _BUCKET_SIZE,
        }
    if offload != "none":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": False}
    if offload == "all":
        zero["offload_param"] = {"device": "cpu", "pin_memory": False}
    return zero


def _read_settings(config: Config) -> dict[str, Any]:
    param = "deepspeed_config_path"
    path = Path(str(config.deepspeed_config_path))
    try:
        settings: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        message = f"{param}: {path.name} cannot be read: {error.strerror}"
        raise ConfigError([Problem(message, param, "missing_input")]) from error
    except ValueError as error:
        raise ConfigError([Problem(f"{param}: {path.name} is not JSON: {error}", param, "invalid_value")]) from error
    zero = settings.setdefault("zero_optimization", {}) if isinstance(settings, dict) else None
    if not isinstance(zero, dict):
        message = f"{param}: {path.name} must hold a JSON object, with an object at zero_optimization"
        raise ConfigError([Problem(message, param, "invalid_value")])
    if zero.get("stage") == 3:
        _check_stage_3(config, zero)
    _complete_scheduler(settings)
    return dict(settings)


def _check_stage_3(config: Config, zero: dict[str, Any]) -> None:
    param = "deepspeed_config_path"
    for name in ("load_in_4bit", "load_in_8bit"):
        if getattr(config, name):
            raise ConfigError([describe_quantized_stage_3(name, param=param)])
    if not zero.setdefault(_GATHER_ON_SAVE, True):
        message = f"{param}: {_GATHER_ON_SAVE} is false, and no checkpoint would hold the weights; set it to true"
        raise ConfigError([Problem(message, param, "conflict")])


def _complete_scheduler(settings: dict[str, Any]) -> None:
    """These schedules cannot start without their number of steps, and transformers fills in only what is there."""
    scheduler = settings.get("scheduler")
    if isinstance(scheduler, dict) and scheduler.get("type") in _DECAYING_SCHEDULERS:
        scheduler.setdefault("params", {}).setdefault("total_num_steps", "auto")
