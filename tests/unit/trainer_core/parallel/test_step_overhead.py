"""What a step of several ranks does beside computing: norms, buckets, walks over the model, sums over the ranks."""

from types import SimpleNamespace

import pytest
import torch
import torch.distributed
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

from tests.support.tiny_models import build_tiny_llama
from trainer_core.padding_free.model_check import has_unused_weights
from trainer_core.trainers.parallel import fit_buckets, sum_gradients_in_fp32
from trainer_core.trainers.quick_walks import QuickWalks
from trainer_core.trainers.zero_norm import measure_norm_at_once

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 64}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}


@pytest.fixture
def group_of_one():
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield torch.distributed.group.WORLD
    torch.distributed.destroy_process_group()


class ZeroOptimizer:
    """What the norm needs of DeepSpeed's."""

    model_parallel_group = None
    cpu_offload = False
    compute_grad_norm = True
    device = "cpu"
    overflow = None

    def __init__(self, group):
        self.dp_process_group = group

    def get_grad_norm_direct(self, gradients, params, norm_type=2):
        raise AssertionError("the slow way")

    def check_overflow(self, partition_gradients=True):
        raise AssertionError("the slow way")


def test_zeros_norm_is_that_of_all_gradients_without_the_filling(group_of_one):
    optimizer = ZeroOptimizer(group_of_one)
    assert measure_norm_at_once(SimpleNamespace(optimizer=optimizer, has_moe_layers=False))
    gradients = [torch.randn(3, 5), torch.randn(7).bfloat16()]
    filling = torch.ones(9)
    filling._zero_padding = True

    norm = optimizer.get_grad_norm_direct([*gradients, filling], gradients)

    assert float(norm) == pytest.approx(float(torch.cat([each.flatten().float() for each in gradients]).norm()), 1e-6)
    optimizer.check_overflow()
    assert optimizer.overflow is False, "the norm tells"


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_norm_that_is_no_number_is_told_as_deepspeed_tells_it(group_of_one, value):
    optimizer = ZeroOptimizer(group_of_one)
    measure_norm_at_once(SimpleNamespace(optimizer=optimizer, has_moe_layers=False))

    assert float(optimizer.get_grad_norm_direct([torch.tensor([1.0, value])], [torch.zeros(2)])) == -1
    assert float(optimizer.get_grad_norm_direct([], [])) == 0, "a rank may have no weight of a group"


@pytest.mark.parametrize(
    ("engine", "values"),
    [({"has_moe_layers": True}, {}), ({}, {"cpu_offload": True}), ({}, {"offload_optimizer": True})],
)
def test_gradients_in_host_memory_and_experts_keep_deepspeeds_way(group_of_one, engine, values):
    optimizer = ZeroOptimizer(group_of_one)
    vars(optimizer).update(values)

    assert not measure_norm_at_once(SimpleNamespace(**{"optimizer": optimizer, "has_moe_layers": False, **engine}))
    with pytest.raises(AssertionError, match="slow way"):
        optimizer.get_grad_norm_direct([], [])


@pytest.mark.parametrize(("given", "wanted"), [(500, 30), (20, 20), ("auto", "auto")])
def test_buckets_are_no_larger_than_what_is_trained(given, wanted):
    model = nn.Sequential(nn.Linear(5, 5), nn.Linear(50, 50))
    model[1].requires_grad_(False)
    settings = SimpleNamespace(config={"zero_optimization": {"reduce_bucket_size": given}})

    fit_buckets(SimpleNamespace(hf_deepspeed_config=settings), model)

    assert settings.config["zero_optimization"]["reduce_bucket_size"] == wanted


def test_fsdp_adds_gradients_up_in_fp32_and_leaves_the_loss_alone():
    given = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.bfloat16, output_dtype=torch.bfloat16)
    plugin = SimpleNamespace(mixed_precision_policy=given)
    trainer = SimpleNamespace(accelerator=SimpleNamespace(state=SimpleNamespace(fsdp_plugin=plugin)))

    sum_gradients_in_fp32(trainer)

    assert plugin.mixed_precision_policy == MixedPrecisionPolicy(
        param_dtype=torch.bfloat16, reduce_dtype=torch.float32, output_dtype=None
    )


def test_walks_over_a_model_see_what_the_model_shows(tmp_path):
    model = LlamaForCausalLM.from_pretrained(build_tiny_llama(tmp_path))
    weights = [id(weight) for weight in model.parameters()]
    own = [id(weight) for weight in model.parameters(recurse=False)]
    walks = QuickWalks(model, is_whole=True)

    assert [id(weight) for weight in model.parameters()] == weights
    assert [id(weight) for weight in model.parameters(recurse=False)] == own
    assert model.train() is model
    # Something below is switched by itself: the next step's call must switch it back.
    model.model.layers[1].eval()
    model.train()
    assert all(module.training for module in model.modules())
    model.eval()
    assert not any(module.training for module in model.modules())

    walks.close()
    assert not {"train", "parameters"} & set(vars(model))
    assert [id(weight) for weight in model.parameters()] == weights


def test_weights_in_shards_are_looked_up_each_time():
    model = nn.Sequential(nn.Linear(2, 2))
    walks = QuickWalks(model, is_whole=False)

    model[0].weight = nn.Parameter(torch.zeros(2, 2))
    assert model[0].weight is next(model.parameters())
    assert not model.train(False)[0].training
    walks.close()
    assert "train" not in vars(model)


def test_ddp_need_not_look_for_weights_that_are_all_used():
    model = LlamaForCausalLM(LlamaConfig(**SIZES, **HEADS)).train()
    random_state = torch.get_rng_state()

    assert not has_unused_weights(model, device="cpu")
    assert all(weight.grad is None for weight in model.parameters())
    assert model.training
    assert torch.equal(torch.get_rng_state(), random_state)

    model.unused = nn.Linear(2, 2)
    assert has_unused_weights(model, device="cpu")


def test_ddp_looks_for_unused_experts():
    model = MixtralForCausalLM(MixtralConfig(**SIZES, **HEADS, num_local_experts=2))

    assert has_unused_weights(model, device="cpu")
