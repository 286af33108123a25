"""The courses of the learning rate that can be named, as transformers names them, and their options."""

from collections.abc import Mapping

from trainer_core.config.options import Option

_CYCLES: dict[str, Option] = {"num_cycles": "number"}
_LOWEST: dict[str, Option] = {**_CYCLES, "min_lr": "number", "min_lr_rate": "number"}
_SHAPES = ("linear", "cosine", "1-sqrt")
_BY_METRIC: dict[str, Option] = {
    **dict.fromkeys(("factor", "threshold", "min_lr", "eps"), "number"),
    "threshold_mode": ("rel", "abs"),
    "patience": "integer",
    "cooldown": "integer",
}

SCHEDULERS: Mapping[str, Mapping[str, Option]] = {
    "constant": {},
    "constant_with_warmup": {},
    "cosine": _CYCLES,
    "cosine_warmup_with_min_lr": {**_LOWEST, "warmup_lr_rate": "number"},
    "cosine_with_min_lr": _LOWEST,
    "cosine_with_restarts": {"num_cycles": "integer"},
    "greedy": {
        **_BY_METRIC,
        "max_lr": "number",
        "warmup": "integer",
        "smooth": "flag",
        "window_size": "integer",
        "reset_start": "integer",
    },
    "inverse_sqrt": {"timescale": "integer"},
    "linear": {},
    "polynomial": {"lr_end": "number", "power": "number"},
    "reduce_lr_on_plateau": _BY_METRIC,
    "warmup_stable_decay": {
        **_CYCLES,
        "num_decay_steps": "integer",
        "num_stable_steps": "integer",
        "warmup_type": _SHAPES,
        "decay_type": _SHAPES,
        "min_lr_ratio": "number",
    },
}
"""What `lr_scheduler_kwargs` may hold, by scheduler."""

FOLLOWS_EVAL_LOSS = frozenset({"greedy", "reduce_lr_on_plateau"})
"""Schedulers that move at each evaluation, by its loss."""

WITHOUT_WARMUP = frozenset({"constant", *FOLLOWS_EVAL_LOSS})
"""Schedulers that start at the full learning rate, whatever `warmup_steps` says."""
