"""A way of training that did not take effect, or that left weights behind, is an error."""

from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.unit.trainer_core.train.conftest import RecordedEvents
from trainer_core.config import build_config
from trainer_core.errors import ConfigError
from trainer_core.trainers import parallel
from trainer_core.trainers.parallel import StrategyCallback, StrategyError, build_parallel_options, check_parallel
from trainer_core.trainers.running import check_strategy
from trainer_core.trainers.saved_weights import IncompleteWeightsError, check_saved_weights


@pytest.mark.parametrize(
    ("values", "param", "wanted"),
    [
        ({"deepspeed_stage": 2}, "deepspeed_stage", "zero-2"),
        ({"fsdp_strategy": "full_shard"}, "fsdp_strategy", "fsdp"),
    ],
)
def test_a_strategy_that_did_not_take_effect_is_an_error(values, param, wanted):
    trainer = SimpleNamespace(model_wrapped=torch.nn.Linear(2, 2), args=None)
    callback = StrategyCallback(trainer, config=build_config(values), events=RecordedEvents())

    with pytest.raises(StrategyError, match=f"{param}=.*by {wanted}, but is by single") as caught:
        callback.on_train_begin(None, SimpleNamespace(is_world_process_zero=True), None)
    assert caught.value.param == param


def test_copies_of_a_model_that_know_nothing_of_each_other_are_an_error(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    trainer = SimpleNamespace(model_wrapped=torch.nn.Linear(2, 2), args=None)
    callback = StrategyCallback(trainer, config=build_config({}), events=RecordedEvents())

    with pytest.raises(StrategyError, match="by ddp, but is by single"):
        callback.on_train_begin(None, SimpleNamespace(is_world_process_zero=True), None)


@pytest.mark.parametrize(
    ("values", "place", "param", "words"),
    [
        ({"fsdp_strategy": "full_shard"}, {}, "fsdp_strategy", "two GPUs or more"),
        ({"deepspeed_stage": 2, "single_gpu": False}, {}, "single_gpu", "launcher"),
        ({"deepspeed_config_path": "/nowhere.json"}, {}, "deepspeed_config_path", "cannot be read"),
        ({"device_map": "auto"}, {"WORLD_SIZE": "2"}, "device_map", "leave it at None"),
    ],
)
def test_what_cannot_run_as_this_process_was_started(monkeypatch, values, place, param, words):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in place.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(ConfigError, match=words) as caught:
        check_parallel(build_config(values))
    assert caught.value.problems[0].param == param


@pytest.mark.parametrize(
    ("offload", "strategy", "expected"), [(True, "", True), (False, "", False), (False, " offload", True)]
)
def test_where_there_is_a_gpu_fsdp_keeps_its_shards_in_host_memory(monkeypatch, offload, strategy, expected):
    # Options only: nothing is moved here.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    config = build_config({"fsdp_strategy": f"shard_grad_op{strategy}", "fsdp_offload": offload})

    events = RecordedEvents()

    options = build_parallel_options(config, optimizer="adamw_torch", events=events)

    assert options == {
        "fsdp": True,
        "fsdp_config": {"reshard_after_forward": False, "cpu_offload": expected},
        "ddp_backend": "cuda:nccl,cpu:gloo",
    }
    # It is on unless it is turned off, and slow: said each time.
    assert ("set fsdp_offload=False" in events.messages("decision")) == expected


def test_an_optimizer_that_cannot_work_on_shards_is_replaced_with_a_warning():
    events = RecordedEvents()
    config = build_config({"fsdp_strategy": "full_shard"})

    options = build_parallel_options(config, optimizer="paged_adamw_8bit", events=events)

    assert options["optim"] == "adamw_torch"
    assert [data["wanted"] for data in events.of_type("warning")] == ["paged_adamw_8bit"]


def test_a_missing_package_names_what_to_install(monkeypatch):
    # An installation without the extra cannot be had here.
    monkeypatch.setattr(parallel.importlib.util, "find_spec", lambda name: None)

    with pytest.raises(ConfigError, match=r"deepspeed_stage needs .*finesmith-server\[deepspeed\]"):
        check_parallel(build_config({"deepspeed_stage": 1}))


@pytest.fixture
def adapter(tiny_llama, tmp_path):
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_llama),
        LoraConfig(r=4, target_modules=["q_proj", "v_proj"], modules_to_save=["lm_head"]),
    )
    model.save_pretrained(tmp_path / "adapter")
    return model, tmp_path / "adapter"


def test_a_whole_adapter_passes(adapter):
    model, folder = adapter

    check_saved_weights(folder, model=model)


def cut(tensors):
    name = next(iter(tensors))
    return {**tensors, name: tensors[name][:1].clone()}


@pytest.mark.parametrize(
    "damage",
    [
        lambda tensors: {},
        lambda tensors: {name: tensor[:0] for name, tensor in tensors.items()},
        lambda tensors: dict(list(tensors.items())[1:]),
        cut,
    ],
    ids=["40 bytes", "empty tensors", "one missing", "one shard"],
)
def test_an_adapter_that_is_not_whole_is_an_error(adapter, damage):
    model, folder = adapter
    path = folder / "adapter_model.safetensors"
    save_file(damage(load_file(path)), path)

    with pytest.raises(IncompleteWeightsError, match="not whole"):
        check_saved_weights(folder, model=model)


def test_a_file_that_is_no_safetensors_is_an_error(adapter):
    model, folder = adapter
    (folder / "adapter_model.safetensors").write_bytes(b"\0" * 40)

    with pytest.raises(IncompleteWeightsError, match="cannot be read"):
        check_saved_weights(folder, model=model)


def test_a_model_without_some_of_its_weights_is_an_error(tiny_llama, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    model.save_pretrained(tmp_path)
    check_saved_weights(tmp_path, model=model)
    path = tmp_path / "model.safetensors"
    save_file(cut(load_file(path)), path)

    with pytest.raises(IncompleteWeightsError, match=r"had 393,856 in training"):
        check_saved_weights(tmp_path, model=model)


@pytest.mark.parametrize(
    ("files", "fsdp", "stage", "param"),
    [
        (["optimizer_0/.metadata"], True, None, None),
        (["optimizer_0/.metadata"], False, None, "fsdp_strategy"),
        (["optimizer.pt"], True, None, "fsdp_strategy"),
        (["optimizer.pt"], False, None, None),
        (["optimizer.pt"], False, 2, "deepspeed_stage"),
        (["global_step4/zero_pp_rank_0_mp_rank_00_optim_states.pt"], False, 2, None),
        (["global_step4/zero_pp_rank_0_mp_rank_00_optim_states.pt"], False, None, "deepspeed_stage"),
        (["global_step4/zero_pp_rank_0_mp_rank_00_optim_states.pt"], False, 3, "deepspeed_stage"),
        (["global_step4/zero_pp_rank_0_mp_rank_00_model_states.pt"], False, 3, None),
        (["global_step4/zero_pp_rank_0_mp_rank_00_model_states.pt"], True, None, "fsdp_strategy"),
        (["adapter_model.safetensors"], False, 2, None),
    ],
)
def test_a_checkpoint_of_another_strategy_is_refused_by_name(tmp_path, files, fsdp, stage, param):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    settings = None if stage is None else SimpleNamespace(is_zero3=lambda: stage == 3)
    trainer = SimpleNamespace(
        is_fsdp_enabled=fsdp,
        is_deepspeed_enabled=stage is not None,
        args=SimpleNamespace(hf_deepspeed_config=settings),
    )
    if param is None:
        check_strategy(trainer, tmp_path)
        return
    with pytest.raises(ConfigError, match="was saved by a training with") as caught:
        check_strategy(trainer, tmp_path)
    assert caught.value.problems[0].param == param


def test_compiled_layers_of_stage_3_are_not_compiled_for_the_number_of_a_weight():
    weight = torch.nn.Parameter(torch.ones(2))
    weight.ds_id = 7
    ask = torch.compile(parallel._may_be_in_shards, backend="eager")

    assert (parallel._may_be_in_shards(weight), ask(weight)) == (True, False)
    assert not parallel._may_be_in_shards(torch.ones(2))
