"""Optimizers: which one runs, what reaches it, and that every one of them trains."""

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.unit.trainer_core.train.conftest import RecordedEvents, get_losses, make_dataset
from trainer_core.config import Config
from trainer_core.config.optimizers import NEEDS_CUDA, OPTIMIZERS, PACKAGES
from trainer_core.context import StepContext
from trainer_core.errors import ConfigError
from trainer_core.experiments import Experiment
from trainer_core.steps.train import train
from trainer_core.trainers.loraplus import build_loraplus_groups
from trainer_core.trainers.optimizer_choice import choose_optimizer

MakeConfig = Callable[..., Config]

NOT_INSTALLED = {"apollo_torch", "torchao", "torchdistx"}
HERE = [
    name
    for name in OPTIMIZERS
    if not (name in PACKAGES and PACKAGES[name].module in NOT_INSTALLED)
    and (name not in NEEDS_CUDA or torch.cuda.is_available())
]
IN_SHORT = ("adafactor", "ademamix_8bit", "galore_adamw", "lomo", "paged_adamw_8bit", "rmsprop_bnb_8bit", "sgd")
"""One of each kind for every run; the others follow in the long one."""


@contextmanager
def ignore_deprecations() -> Iterator[None]:
    """Optimizers of other packages tell what they will change in themselves one day."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=FutureWarning)
        warnings.simplefilter("ignore", category=UserWarning)
        yield


def train_with(config: Config, *, context: StepContext | None = None) -> Experiment:
    with ignore_deprecations():
        return train(config, make_dataset(8), make_dataset(2), context=context)


@pytest.mark.parametrize(
    "name", [name if name in IN_SHORT else pytest.param(name, marks=pytest.mark.slow) for name in HERE]
)
def test_every_optimizer_trains(make_config: MakeConfig, name: str) -> None:
    steps = 12 if name.startswith("schedule_free_radam") else 4
    rate = 0.5 if "sgd" in name or "lomo" in name else 1e-3 if name.startswith(("rmsprop", "grok")) else 5e-3
    losses = get_losses(
        train_with(make_config(optim=name, learning_rate=rate, max_steps=steps, per_device_train_batch_size=8))
    )
    assert losses[-1] < losses[0] - 0.01


@pytest.mark.parametrize(
    ("wanted", "used"),
    [
        ("paged_adamw_8bit", "adamw_8bit"),
        ("paged_adamw_32bit", "adamw_torch"),
        ("paged_lion_8bit", "lion_8bit"),
        ("paged_lion_32bit", "lion_32bit"),
        ("paged_ademamix_8bit", "ademamix_8bit"),
        ("paged_ademamix_32bit", "ademamix"),
        ("adamw_torch", "adamw_torch"),
        ("adamw_8bit", "adamw_8bit"),
        ("galore_adamw", "galore_adamw"),
        ("sgd", "sgd"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="paged optimizers run on a GPU")
def test_a_paged_optimizer_runs_without_pages_on_the_cpu_and_that_is_told(
    make_config: MakeConfig, events: RecordedEvents, wanted: str, used: str
) -> None:
    assert choose_optimizer(make_config(optim=wanted), events=events) == used
    assert bool(events.of_type("warning")) == (wanted != used)


@pytest.mark.parametrize("name", ["galore_adamw_layerwise", "grokadamw"])
def test_an_optimizer_that_does_not_resume_exactly_is_warned_of(
    make_config: MakeConfig, events: RecordedEvents, name: str
) -> None:
    assert choose_optimizer(make_config(optim=name), events=events) == name
    assert "resumes goes on otherwise" in events.messages("warning")


@pytest.mark.parametrize(
    ("wanted", "used"), [("paged_adamw_8bit", "adamw_torch"), ("lion_8bit", "adamw_torch"), ("rmsprop_bnb", "rmsprop")]
)
def test_without_bitsandbytes_its_optimizers_are_replaced_with_a_warning(
    make_config: MakeConfig, events: RecordedEvents, monkeypatch: pytest.MonkeyPatch, wanted: str, used: str
) -> None:
    # A missing package: the installed one cannot be taken away otherwise.
    monkeypatch.setitem(sys.modules, "bitsandbytes.cextension", None)
    assert choose_optimizer(make_config(optim=wanted), events=events) == used
    assert events.of_type("warning")[0]["used"] == used


@pytest.mark.parametrize("name", [name for name in PACKAGES if PACKAGES[name].module in NOT_INSTALLED])
def test_a_missing_package_is_named_before_the_model_is_loaded(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    # As on a machine without the package, should this one have it.
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None)
    with pytest.raises(ConfigError, match=f"needs the package {PACKAGES[name].module}") as caught:
        train(make_config(optim=name, model_name_or_path="/does/not/exist"), make_dataset(4))
    assert caught.value.param == "optim"


@pytest.mark.skipif(torch.cuda.is_available(), reason="it runs here")
@pytest.mark.parametrize("name", sorted(NEEDS_CUDA))
def test_an_optimizer_that_needs_a_gpu_says_so_before_the_model_is_loaded(make_config: MakeConfig, name: str) -> None:
    with pytest.raises(ConfigError, match="CUDA"):
        train(make_config(optim=name, model_name_or_path="/does/not/exist"), make_dataset(4))


def build(config: Config, **given: Any) -> Any:
    """The experiment and its optimizer, before the first step."""
    experiment = Experiment(config, train_dataset=make_dataset(4), **given)
    experiment.build()
    assert experiment.trainer is not None
    experiment.trainer.create_optimizer()
    return experiment


def test_the_keys_of_the_optimizer_reach_its_groups(make_config: MakeConfig) -> None:
    options = {"adam_beta1": 0.8, "adam_beta2": 0.95, "adam_epsilon": 1e-6, "weight_decay": 0.2}
    optimizer = build(make_config(**options, learning_rate=3e-3)).trainer.optimizer
    decayed, rest = optimizer.param_groups
    assert (decayed["betas"], decayed["eps"], decayed["lr"]) == ((0.8, 0.95), 1e-6, 3e-3)
    assert (decayed["weight_decay"], rest["weight_decay"]) == (0.2, 0.0)
    assert all(parameter.ndim == 1 for parameter in rest["params"])


@pytest.mark.parametrize(
    ("optim", "optim_args", "name", "value"),
    [
        ("sgd", "momentum=0.9, nesterov=True", "momentum", 0.9),
        ("rmsprop", "alpha=0.5", "alpha", 0.5),
        ("ademamix_8bit", "alpha=3.0", "alpha", 3.0),
        ("galore_adamw", "rank=4", "rank", 4),
        ("schedule_free_sgd", "r=1.0", "r", 1.0),
        ("stable_adamw", "kahan_sum=True", "kahan_sum", True),
    ],
)
def test_optim_args_reach_the_optimizer(
    make_config: MakeConfig, optim: str, optim_args: str, name: str, value: object
) -> None:
    with ignore_deprecations():
        groups = build(make_config(optim=optim, optim_args=optim_args)).trainer.optimizer.param_groups
    assert value in [group.get(name) for group in groups]


def test_target_modules_say_which_gradients_are_projected(make_config: MakeConfig) -> None:
    with ignore_deprecations():
        all_layers = build(make_config(optim="galore_adamw")).trainer.optimizer
        chosen = build(make_config(optim="galore_adamw", optim_target_modules="q_proj,k_proj")).trainer.optimizer
    projected = [sum(len(g["params"]) for g in each.param_groups if "rank" in g) for each in (all_layers, chosen)]
    assert projected == [15, 4]


def test_target_modules_that_match_nothing_are_an_error_that_names_them(make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match="qq_proj"):
        build(make_config(optim="galore_adamw", optim_target_modules="qq_proj"))


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_8bit", "sgd"])
def test_loraplus_gives_b_matrices_a_higher_rate_and_decays_as_usual(make_config: MakeConfig, optim: str) -> None:
    config = make_config(apply_lora=True, loraplus_lr_ratio=16, learning_rate=1e-3, weight_decay=0.1, optim=optim)
    experiment = build(config)
    names = {id(parameter): name for name, parameter in experiment.model.named_parameters()}
    groups = experiment.trainer.optimizer.param_groups
    rates = {names[id(p)]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert set(rates) == {name for name, p in experiment.model.named_parameters() if p.requires_grad}
    assert {rate for name, rate in rates.items() if ".lora_A." in name} == {(1e-3, 0.1)}
    assert {rate for name, rate in rates.items() if ".lora_B." in name} == {(16e-3, 0.1)}


def test_loraplus_has_a_rate_of_its_own_for_embeddings_and_leaves_whole_modules_alone(make_config: MakeConfig) -> None:
    from peft import LoraConfig, get_peft_model

    plain = build(make_config()).model
    model = get_peft_model(
        plain,
        LoraConfig(target_modules=["embed_tokens", "q_proj"], modules_to_save=["lm_head", "norm"], use_dora=False),
    )
    decayed = {name for name, p in model.named_parameters() if p.ndim > 1}
    groups = build_loraplus_groups(
        model, learning_rate=1e-3, ratio=4, embedding_learning_rate=1e-6, weight_decay=0.1, decayed=decayed
    )
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates = {names[id(p)]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    by_kind = {
        kind: {rate for name, rate in rates.items() if kind in name}
        for kind in ("lora_embedding_A", "lora_embedding_B", "lora_A.", "lora_B.", "lm_head", "model.norm")
    }
    assert by_kind == {
        "lora_embedding_A": {(1e-6, 0.1)},
        "lora_embedding_B": {(1e-6, 0.1)},
        "lora_A.": {(1e-3, 0.1)},
        "lora_B.": {(4e-3, 0.1)},
        "lm_head": {(1e-3, 0.1)},
        "model.norm": {(4e-3, 0.0)},
    }


def test_the_rate_of_adapters_on_embeddings_comes_from_the_config(make_config: MakeConfig) -> None:
    config = make_config(
        **{"apply_lora": True, "raw_lora_target_modules": "embed_tokens,q_proj", "learning_rate": 1e-3},
        **{"loraplus_lr_ratio": 4, "loraplus_lr_embedding": 1e-5},
    )
    assert sorted({group["lr"] for group in build(config).trainer.optimizer.param_groups}) == [1e-5, 1e-3, 4e-3]


def test_loraplus_learns_otherwise_than_lora(make_config: MakeConfig) -> None:
    options: dict[str, object] = {"apply_lora": True, "max_steps": 4, "lora_dropout": 0.0, "learning_rate": 1e-3}
    plain = get_losses(train_with(make_config(**options)))
    plus = get_losses(train_with(make_config(**options, loraplus_lr_ratio=16)))
    assert plus[0] == plain[0]
    assert plus[-1] < plain[-1] - 0.01


def test_a_schedule_free_training_saves_the_averaged_weights_also_when_it_had_ended_before(
    make_config: MakeConfig, context: StepContext
) -> None:
    config = make_config(optim="schedule_free_adamw", max_steps=4, learning_rate=1e-2, save_steps=4)
    name = "model.layers.0.mlp.up_proj.weight"
    with ignore_deprecations():
        train(config, make_dataset(8), context=context)
    checkpoint = Path(config.output_dir) / "checkpoint-4"
    averaged = load_file(Path(config.output_dir) / "model.safetensors")[name]
    assert torch.load(checkpoint / "optimizer.pt", weights_only=True)["param_groups"][0]["train_mode"]
    assert not torch.equal(averaged, load_file(checkpoint / "model.safetensors")[name])
    (Path(config.output_dir) / "model.safetensors").unlink()
    with ignore_deprecations():
        train(config, make_dataset(8), context=context)
    again = load_file(Path(config.output_dir) / "model.safetensors")[name]
    torch.testing.assert_close(again, averaged, atol=1e-6, rtol=1e-5)
