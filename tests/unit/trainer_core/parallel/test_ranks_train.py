"""Two processes train as one does: DDP, FSDP and DeepSpeed on the CPU, with gloo."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tests.support.tiny_models import build_tiny_llama, iterate_sentences
from tests.unit.trainer_core.parallel.conftest import DEEPSPEED, TORCHRUN, run_program
from trainer_core.checkpoints import newest_complete_checkpoint

pytestmark = pytest.mark.timeout(900)
LORA = {"apply_lora": True, "learning_rate": 1e-3}
# A sample at a time, so that each counts as much whichever rank has it.
EVAL = {"do_eval": True, "eval_steps": 2, "per_device_eval_batch_size": 1}
ROWS = "lays samples end to end in rows of up to 96 tokens, without padding"
FUSED = "computes the loss without holding all logits"
LEAN = "casts the adapter's matrices, not the activations"


def assert_same_losses(outcome, plain):
    assert outcome["losses"] == pytest.approx(plain["losses"], abs=2e-5)
    assert len(plain["losses"]) == 4


def assert_whole_adapter(folder):
    with safe_open(Path(folder) / "adapter_model.safetensors", framework="pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - not a mapping
        assert any(file.get_tensor(name).any() for name in shapes if "lora_B" in name)
    # 2 layers of 7 linear modules, each with A and B of rank 8.
    assert len(shapes) == 28
    assert all(8 in shape and min(shape) == 8 for shape in shapes.values())


@pytest.mark.slow
def test_ddp_and_fsdp_give_the_curve_of_one_process_and_go_on_where_they_stopped(make_values, train_ranks):
    """One launch for all of it: starting two ranks costs more than the training."""
    fsdp = make_values("fsdp", **LORA, fsdp_strategy="full_shard auto_wrap")
    ddp_again = make_values("ddp again", **LORA)
    ddp, _, ddp_resumed, stopped, resumed = train_ranks(
        [
            {"config": make_values("ddp", **LORA, **EVAL)},
            *({"config": ddp_again, "stop_at": 2}, {"config": ddp_again}),
            *({"config": fsdp, "stop_at": 2}, {"config": fsdp}),
        ]
    )
    (plain,) = train_ranks(
        [{"config": make_values("plain", **LORA, **EVAL, per_device_train_batch_size=4)}], launcher=()
    )

    assert plain["strategies"] == []
    assert len(plain["eval_losses"]) == 2
    assert ddp["eval_losses"] == pytest.approx(plain["eval_losses"], abs=1e-4)
    assert (ddp["strategies"], ddp["wrappers"], ddp["finds_unused"]) == (["ddp"], ["DistributedDataParallel"], False)
    assert_same_losses(ddp, plain)
    assert_whole_adapter(make_values("ddp")["output_dir"])
    assert "resumes from checkpoint-2" in ddp_resumed["decisions"]
    assert_same_losses(ddp_resumed, plain)

    assert (stopped["stopped"], stopped["strategies"], stopped["checkpoints"]) == (True, ["fsdp"], [2])
    assert all(each in outcome["decisions"] for each in (ROWS, FUSED, LEAN) for outcome in (ddp, resumed))
    assert "resumes from checkpoint-2" in resumed["decisions"]
    assert_same_losses(resumed, plain)
    assert_whole_adapter(fsdp["output_dir"])
    assert_whole_adapter(newest_complete_checkpoint(fsdp["output_dir"]))


@pytest.mark.slow
def test_fsdp_of_all_weights_in_its_other_strategy_goes_on_where_it_stopped(make_values, train_ranks, tmp_path):
    config = make_values("fsdp", fsdp_strategy="shard_grad_op", learning_rate=1e-4)
    tied = build_tiny_llama(tmp_path / "tied", tie_word_embeddings=True)
    tied_config = make_values("fsdp tied", model_name_or_path=str(tied), fsdp_strategy="full_shard", max_steps=1)
    stopped, outcome, again, _ = train_ranks(
        [
            *({"config": config, "stop_at": 2}, {"config": config, "experiment_key": "slow"}, {"config": config}),
            {"config": tied_config},
        ]
    )
    tied_weights = load_file(Path(tied_config["output_dir"]) / "model.safetensors")
    assert "lm_head.weight" not in tied_weights
    assert "model.embed_tokens.weight" in tied_weights
    (plain,) = train_ranks(
        [{"config": make_values("plain", per_device_train_batch_size=4, learning_rate=1e-4)}], launcher=()
    )

    assert (stopped["stopped"], outcome["strategies"]) == (True, ["fsdp"])
    assert "resumes from checkpoint-2" in outcome["decisions"]
    assert "resumes from checkpoint-4" in again["decisions"]
    assert_same_losses(outcome, plain)
    # None leaves while another may still gather from it.
    assert outcome["ends_apart"] < 1
    checkpoint = newest_complete_checkpoint(config["output_dir"])
    # Each rank has written its own part of what only a resumed training needs.
    assert {path.name for path in (checkpoint / "optimizer_0").glob("*.distcp")} == {"__0_0.distcp", "__1_0.distcp"}
    expected = load_file(Path(make_values("plain")["output_dir"]) / "model.safetensors")
    for folder in (Path(config["output_dir"]), checkpoint):
        weights = load_file(folder / "model.safetensors")
        assert {name: weight.dtype for name, weight in weights.items()} == {
            name: weight.dtype for name, weight in expected.items()
        }
        assert all(torch.allclose(weights[name], expected[name], atol=1e-4) for name in expected)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_deepspeed_in_two_processes(make_values, train_ranks, stage):
    config = make_values("zero", **LORA, deepspeed_stage=stage, optim="paged_adamw_8bit")
    stopped, resumed = (
        train_ranks([scenario], launcher=DEEPSPEED)[0]
        for scenario in ({"config": config, "stop_at": 2}, {"config": config})
    )
    (plain,) = train_ranks([{"config": make_values("plain", **LORA, per_device_train_batch_size=4)}], launcher=())

    assert (stopped["stopped"], stopped["strategies"], stopped["wrappers"]) == (
        True,
        [f"zero-{stage}"],
        ["DeepSpeedEngine"],
    )
    assert "'adamw_torch' takes its place" in stopped["warnings"]
    assert ROWS in resumed["decisions"]
    assert all(each in resumed["decisions"] for each in (FUSED, LEAN))
    assert "resumes from checkpoint-2" in resumed["decisions"]
    assert_same_losses(resumed, plain)
    assert_whole_adapter(config["output_dir"])
    assert_whole_adapter(newest_complete_checkpoint(config["output_dir"]))


@pytest.mark.slow
def test_deepspeed_in_one_process_saves_the_whole_adapter_beside_its_own_state(make_values, train_ranks, tmp_path):
    config = make_values("zero", **LORA, deepspeed_stage=3, deepspeed_offload="none", per_device_train_batch_size=4)
    # The second time all steps are done: what is saved is the checkpoint's.
    outcome, again = train_ranks([{"config": config}, {"config": config}], launcher=())
    (plain,) = train_ranks([{"config": make_values("plain", **LORA, per_device_train_batch_size=4)}], launcher=())

    assert (outcome["strategies"], outcome["wrappers"]) == (["zero-3"], ["DeepSpeedEngine"])
    assert_same_losses(outcome, plain)
    assert "resumes from checkpoint-4" in again["decisions"]
    assert again["strategies"] == []
    assert_whole_adapter(config["output_dir"])
    checkpoint = newest_complete_checkpoint(config["output_dir"])
    assert_whole_adapter(checkpoint)
    assert (checkpoint / "global_step4").is_dir()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "flags"),
    [(TORCHRUN, []), (TORCHRUN, ["--fsdp_strategy", "full_shard"]), (DEEPSPEED, ["--deepspeed_stage", "3"])],
    ids=["torchrun", "torchrun fsdp", "deepspeed"],
)
def test_a_script_below_a_launcher_is_a_rank(make_values, tmp_path, launcher, flags):
    (tmp_path / "train.py").write_text("from trainer_core.cli import cli_run_train\n\ncli_run_train()\n")
    rows = [json.dumps({"text": sentence}) for sentence, _ in zip(iterate_sentences(), range(32), strict=False)]
    (tmp_path / "train.jsonl").write_text("\n".join(rows) + "\n")
    values = make_values("out", apply_lora=True, fuse_after_training=True, fused_model_local_path="fused") | {
        "path_to_env_file": None
    }
    given = [part for name, value in values.items() if value is not None for part in (f"--{name}", str(value))]

    done = run_program([sys.executable, "-m", *launcher, "train.py", *flags, *given], cwd=tmp_path)

    assert done.returncode == 0, done.stdout[-6000:]
    wanted = "zero-3" if "--deepspeed_stage" in flags else ("fsdp" if flags else "ddp")
    assert done.stdout.count(f"trains by {wanted} in 2 process(es)") == 1, "told once, by the first rank"
    assert_whole_adapter(tmp_path / "out")
    assert (tmp_path / "fused" / "model.safetensors").stat().st_size > 4 * 393_856
