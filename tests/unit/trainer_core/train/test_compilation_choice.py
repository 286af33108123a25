"""When layers are compiled, as a host that can would choose."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from trainer_core.config import Config
from trainer_core.kernels import choosing

ROWS = {"tokens_per_batch": 16_384}
LONG = {"tokens_per_batch": 32_768, "use_gradient_checkpointing": True, "offload_activations": True}
FP8 = {"apply_lora": True, "fp8_base": True}
SIZES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 8}


@pytest.fixture(autouse=True)
def _a_host_that_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "find_compile_obstacle", lambda: None)
    monkeypatch.setattr(choosing, "find_liger_obstacle", lambda model: None)


def build_model(*, dtype: torch.dtype = torch.bfloat16, **options: Any) -> Any:
    model: Any = LlamaForCausalLM(LlamaConfig(**SIZES)).to(dtype)
    return get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], **options))


def choose(
    values: dict[str, Any], *, model: Any = None, max_steps: int = -1, world_size: int = 1, is_tiled: bool = False
) -> str | None:
    arguments: Any = SimpleNamespace(max_steps=max_steps, world_size=world_size)
    model = model or LlamaForCausalLM(LlamaConfig(**SIZES))  # type: ignore[arg-type]
    return choosing.choose_compilation(Config(**values), model=model, arguments=arguments, is_tiled=is_tiled)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({**ROWS, "torch_compile": "off"}, "torch_compile is 'off'"),
        ({}, "set tokens_per_batch"),
        ({**ROWS, "load_in_8bit": True}, "8 bits"),
        ({**ROWS, "use_liger_kernel": "on"}, "use_liger_kernel is 'on'"),
    ],
)
def test_a_reason_is_told(values: dict[str, Any], reason: str) -> None:
    assert reason in (choose(values) or "")
    assert choose(ROWS) is None


def test_a_lora_on_16_bits_has_liger_s_kernels_instead() -> None:
    lora = build_model()
    assert "Liger" in (choose(ROWS, model=lora) or "")
    assert choose({**ROWS, "torch_compile": "on"}, model=lora) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"apply_lora": True, "fp8_base": True},
        {"use_gradient_checkpointing": True},
        {"activation_memory_budget_gib": 6.5},
    ],
)
def test_what_was_not_measured_stays_compiled(changes: dict[str, Any]) -> None:
    assert choose({**ROWS, **changes}, model=build_model()) is None
    assert choose(ROWS, model=build_model(), world_size=2) is None
    assert choose(ROWS, model=build_model(dtype=torch.float32)) is None
    assert choose(ROWS, model=build_model(use_dora=True)) is None
    assert choose(ROWS, model=build_model(lora_dropout=0.1)) is None


def test_a_lora_is_compiled_where_liger_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose({**ROWS, "use_liger_kernel": "off"}, model=build_model()) is None
    monkeypatch.setattr(choosing, "find_liger_obstacle", lambda model: "not installed")
    assert choose(ROWS, model=build_model()) is None


def test_few_steps_are_over_before_it_pays() -> None:
    assert "10 steps" in (choose(ROWS, max_steps=10) or "")
    assert choose(ROWS, max_steps=100) is None


def test_tiles_go_before_compilation_in_long_rows() -> None:
    assert "tile by tile" in (choose(ROWS, is_tiled=True) or "")
    assert choose({**ROWS, "torch_compile": "on"}, is_tiled=True) is None
    preferring: list[dict[str, Any]] = [{**ROWS, "tiled_mlp": "on"}, LONG]
    assert all(choosing.prefers_tiles(Config(**values)) for values in preferring)
    others: list[dict[str, Any]] = [
        {**LONG, "tokens_per_batch": 32_767},
        {**LONG, "apply_lora": True, "fp8_base": True},
    ]
    others += [{**LONG, "offload_activations": False}]
    assert not any(choosing.prefers_tiles(Config(**values)) for values in others)
