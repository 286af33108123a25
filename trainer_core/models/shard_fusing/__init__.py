"""Merging an adapter into its base tensor by tensor, from the base's files to new ones, without the model in memory."""

from trainer_core.models.shard_fusing.plan import ShardPlan, WholeModelNeeded, plan_shards
from trainer_core.models.shard_fusing.writing import choose_merge_device, save_fused_shards

__all__ = ["ShardPlan", "WholeModelNeeded", "choose_merge_device", "plan_shards", "save_fused_shards"]
