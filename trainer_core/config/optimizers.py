"""The optimizers that can be named, as transformers names them: what each needs and takes."""

from collections.abc import Mapping
from dataclasses import dataclass

from trainer_core.config.options import Option


@dataclass(frozen=True, slots=True)
class OptimizerPackage:
    """A package that is not installed with the trainer."""

    module: str
    """What is imported."""
    install: str
    """What to do to have it."""


_EXTRA = "install it with the extra `optimizers`: pip install 'finesmith-server[optimizers]', or pip install {}"
_GALORE = OptimizerPackage("galore_torch", _EXTRA.format("galore-torch"))
_SCHEDULE_FREE = OptimizerPackage("schedulefree", _EXTRA.format("'schedulefree>=1.4'"))
_LOMO = OptimizerPackage("lomo_optim", _EXTRA.format("lomo-optim"))
_TORCHAO = OptimizerPackage("torchao", "install it: pip install torchao")
_APOLLO = OptimizerPackage(
    "apollo_torch", "install it if its licence, CC-BY-NC, allows your use: pip install apollo-torch"
)

PACKAGES: Mapping[str, OptimizerPackage] = {
    "adalomo": _LOMO,
    "adamw_anyprecision": OptimizerPackage(
        "torchdistx", "build torchdistx from its source, for no release of it fits this torch; or use 'adamw_torch'"
    ),
    "adamw_torch_4bit": _TORCHAO,
    "adamw_torch_8bit": _TORCHAO,
    "apollo_adamw": _APOLLO,
    "apollo_adamw_layerwise": _APOLLO,
    "galore_adafactor": _GALORE,
    "galore_adamw": _GALORE,
    "galore_adamw_8bit": _GALORE,
    "galore_adamw_8bit_layerwise": _GALORE,
    "galore_adamw_layerwise": _GALORE,
    "grokadamw": OptimizerPackage("grokadamw", _EXTRA.format("grokadamw")),
    "lomo": _LOMO,
    "schedule_free_adamw": _SCHEDULE_FREE,
    "schedule_free_radam": _SCHEDULE_FREE,
    "schedule_free_sgd": _SCHEDULE_FREE,
    "stable_adamw": OptimizerPackage("optimi", _EXTRA.format("torch-optimi")),
}
"""Optimizers of packages that are not installed with the trainer; looked for before the model is loaded."""

NEEDS_CUDA = frozenset({"adalomo", "galore_adamw_8bit", "galore_adamw_8bit_layerwise"})
"""Optimizers that allocate on a CUDA device whatever the model is on."""

OPTIMIZERS: tuple[str, ...] = tuple(
    sorted(
        {
            *("adafactor", "adagrad", "adamw_torch", "adamw_torch_fused", "rmsprop", "sgd"),
            *("adamw_8bit", "adamw_bnb_8bit", "ademamix", "ademamix_8bit", "lion_32bit", "lion_8bit"),
            *("paged_adamw_32bit", "paged_adamw_8bit", "paged_ademamix_32bit", "paged_ademamix_8bit"),
            *("paged_lion_32bit", "paged_lion_8bit", "rmsprop_bnb", "rmsprop_bnb_32bit", "rmsprop_bnb_8bit"),
            *PACKAGES,
        }
    )
)
"""Those that can be asked for."""

REFUSED: Mapping[str, str] = {
    "adamw_torch_npu_fused": "runs on Ascend NPUs only; use 'adamw_torch_fused'",
    "adamw_torch_xla": "runs on XLA devices only; use 'adamw_torch'",
    "galore_adafactor_layerwise": "cannot be made by the installed transformers; use 'galore_adafactor'",
}
"""Those of transformers that cannot run here, and why."""

_LOW_RANK: dict[str, Option] = {
    "rank": "integer",
    "update_proj_gap": "integer",
    "scale": "number",
    "proj_type": ("std", "reverse_std", "right", "left", "full"),
}
_APOLLO_OPTIONS: dict[str, Option] = {**_LOW_RANK, "proj": ("random", "svd"), "scale_type": ("channel", "tensor")}
_ADEMAMIX: dict[str, Option] = {
    **dict.fromkeys(("beta1", "beta2", "beta3", "alpha", "eps"), "number"),
    "t_alpha": "integer",
    "t_beta3": "integer",
}
_SCHEDULE_FREE_OPTIONS: dict[str, Option] = {"weight_lr_power": "number", "r": "number"}

OPTIONS: Mapping[str, Mapping[str, Option]] = {
    **dict.fromkeys((name for name in OPTIMIZERS if "ademamix" in name), _ADEMAMIX),
    **dict.fromkeys((name for name in OPTIMIZERS if name.startswith("galore_")), _LOW_RANK),
    **dict.fromkeys((name for name in OPTIMIZERS if name.startswith("apollo_")), _APOLLO_OPTIONS),
    **dict.fromkeys((name for name in OPTIMIZERS if name.startswith("schedule_free_")), _SCHEDULE_FREE_OPTIONS),
    "adagrad": {"lr_decay": "number", "eps": "number"},
    "adamw_torch_4bit": {"bf16_stochastic_round": "flag"},
    "adamw_torch_8bit": {"bf16_stochastic_round": "flag"},
    "grokadamw": dict.fromkeys(
        ("alpha_init", "lamb", "gamma", "grokking_signal_decay_rate", "gradient_clipping"), "number"
    ),
    "rmsprop": {"momentum": "number", "alpha": "number", "eps": "number", "centered": "flag"},
    "sgd": {"momentum": "number", "dampening": "number", "nesterov": "flag"},
    "stable_adamw": {"max_lr": "number", "kahan_sum": "true", "decouple_lr": "true"},
}
"""What `optim_args` may hold, by optimizer; nothing for the rest. A weight decay has a key of its own."""

_BETAS = ("adam_beta1", "adam_beta2", "adam_epsilon")


def is_low_rank(optimizer: str) -> bool:
    """Whether it projects the gradients of `optim_target_modules`."""
    return optimizer.startswith(("galore_", "apollo_"))


def is_fused_into_backward(optimizer: str) -> bool:
    """Whether it updates weights within the backward pass, so that gradients are neither summed nor clipped."""
    return optimizer.endswith("_layerwise") or optimizer in ("lomo", "adalomo")


def resumes_exactly(optimizer: str) -> bool:
    """Whether a checkpoint holds all of its state; GrokAdamW was measured to go on otherwise after a resume."""
    return not optimizer.endswith("_layerwise") and optimizer != "grokadamw"


def takes_parameter_groups(optimizer: str) -> bool:
    """Whether groups of parameters can have learning rates of their own."""
    return not (is_low_rank(optimizer) or is_fused_into_backward(optimizer))


def list_ignored_keys(optimizer: str) -> tuple[str, ...]:
    """The keys of the Config that the optimizer has no use for."""
    ignored: tuple[str, ...] = ()
    if optimizer.startswith(("galore_", "rmsprop", "lion", "paged_lion", "lomo", "adalomo")) or optimizer in (
        *("sgd", "adagrad", "adafactor", "grokadamw", "schedule_free_sgd"),
    ):
        ignored = ("adam_epsilon",) if "lion" in optimizer else _BETAS
    if not takes_parameter_groups(optimizer):
        ignored += ("weight_decay",)
    if is_fused_into_backward(optimizer):
        ignored += ("max_grad_norm",)
    return ignored
