"""When layers are compiled, as a host that can would choose."""

from types import SimpleNamespace
from typing import Any

import pytest

from trainer_core.config import Config
from trainer_core.kernels import choosing

ROWS = {"tokens_per_batch": 16_384}
LORA = {**ROWS, "apply_lora": True}
LONG = {"tokens_per_batch": 32_768, "use_gradient_checkpointing": True, "offload_activations": True}


@pytest.fixture(autouse=True)
def _a_host_that_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "find_compile_obstacle", lambda: None)


def choose(values: dict[str, Any], *, has_liger: bool = True, max_steps: int = -1, world_size: int = 1) -> str | None:
    arguments: Any = SimpleNamespace(max_steps=max_steps, world_size=world_size)
    return choosing.choose_compilation(Config(**values), arguments=arguments, has_liger=has_liger)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({**ROWS, "torch_compile": "off"}, "torch_compile is 'off'"),
        ({}, "set tokens_per_batch"),
        ({**ROWS, "load_in_8bit": True}, "8 bits"),
        (LORA, "Liger"),
        ({**ROWS, "tiled_mlp": "on"}, "tile by tile"),
        (LONG, "tile by tile"),
    ],
)
def test_a_reason_is_told(values: dict[str, Any], reason: str) -> None:
    assert reason in (choose(values) or "")


@pytest.mark.parametrize(
    "values",
    [
        ROWS,
        {**LORA, "torch_compile": "on"},
        {**LORA, "load_in_4bit": True},
        {**LORA, "fp8_base": True},
        {**LORA, "use_gradient_checkpointing": True},
        {**LORA, "activation_memory_budget_gib": 6.5},
        {**LONG, "tokens_per_batch": 16_384},
        {**LONG, "tiled_mlp": "off"},
        {**LONG, "apply_lora": True, "fp8_base": True},
    ],
)
def test_others_are_compiled(values: dict[str, Any]) -> None:
    assert choose(values) is None


def test_a_lora_is_compiled_without_liger_and_on_several_ranks() -> None:
    assert choose(LORA, has_liger=False) is None
    assert choose(LORA, world_size=2) is None


def test_few_steps_are_over_before_it_pays() -> None:
    assert "10 steps" in (choose(ROWS, max_steps=10) or "")
    assert choose(ROWS, max_steps=100) is None
