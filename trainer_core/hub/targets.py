"""Which steps push, and where to: what the Config's keys about repositories mean together with the steps."""

from collections.abc import Sequence
from dataclasses import dataclass

from trainer_core.config import Config, Step


@dataclass(frozen=True, slots=True)
class PushTarget:
    """Where the results of one step go."""

    step: Step
    repository: str
    """`owner/name`; before the hub was asked also `name` alone, which is the token's own."""
    is_private: bool
    """What a repository that is made becomes; one that is there keeps what it is."""
    param: str
    """The Config's key that names the repository."""


def list_push_targets(config: Config, steps: Sequence[Step]) -> tuple[PushTarget, ...]:
    """The pushes of these steps, at most one a step, in their order.

    Training pushes to `hub_model_id` when `push_to_hub` is set. A fused model goes to `fused_hub_model_id`; of steps
    that fuse and do not train it goes to `hub_model_id` where that key is not set. A quantized model goes to
    `quantized_hub_model_id`.
    """
    found = (_find_target(config, step, trains=Step.TRAIN in steps) for step in steps)
    return tuple(target for target in found if target is not None)


def find_push_target(config: Config, steps: Sequence[Step], step: Step) -> PushTarget | None:
    """Where this step pushes to; None when it does not."""
    return next((target for target in list_push_targets(config, steps) if target.step is step), None)


def _find_target(config: Config, step: Step, *, trains: bool) -> PushTarget | None:
    if step is Step.TRAIN and config.push_to_hub and config.hub_model_id is not None:
        return PushTarget(step, config.hub_model_id, config.hub_private_repo, "hub_model_id")
    if step is Step.FUSE and config.fused_hub_model_id is not None:
        return PushTarget(step, config.fused_hub_model_id, config.fused_hub_private_repo, "fused_hub_model_id")
    if step is Step.FUSE and not trains and config.hub_model_id is not None:
        return PushTarget(step, config.hub_model_id, config.hub_private_repo, "hub_model_id")
    if step is Step.QUANTIZE and config.quantized_hub_model_id is not None:
        is_private = config.quantized_hub_private_repo
        return PushTarget(step, config.quantized_hub_model_id, is_private, "quantized_hub_model_id")
    return None
