"""A small model of a class tells what the large one's code does with rows."""

from typing import Any

import pytest
import torch

from tests.unit.trainer_core.padding_free.test_exactness import EXACT, build
from trainer_core.padding_free.model_check import find_unexactness
from trainer_core.padding_free.twin import build_twin

CPU = torch.device("cpu")
SLIDING, FULL = "sliding_attention", "full_attention"


@pytest.mark.parametrize("name", EXACT)
def test_a_twin_is_exact_where_its_model_is(name: str) -> None:
    family, fields = EXACT[name]
    model = build(family, **fields)
    twin = build_twin(model, device=CPU)
    assert type(twin) is type(model)
    assert find_unexactness(twin, device=CPU) is None


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("gemma2", {"sliding_window": 6, "head_dim": 16, "num_key_value_heads": 2}),
        ("bloom", {"n_layer": 2, "n_head": 4}),
        ("mamba", {}),
    ],
)
def test_a_twin_is_refused_where_its_model_is(family: str, fields: dict[str, Any]) -> None:
    model = build(family, **fields)
    assert find_unexactness(build_twin(model, device=CPU), device=CPU) == find_unexactness(model, device=CPU)


def test_a_twin_has_few_words_and_each_kind_of_layer() -> None:
    kinds = [SLIDING] * 5 + [FULL, SLIDING, SLIDING]
    fields = {"sliding_window": 6, "head_dim": 16, "num_key_value_heads": 2, "vocab_size": 1000, "pad_token_id": 999}
    model = build("gemma3_text", num_hidden_layers=8, layer_types=kinds, **fields)
    twin = build_twin(model, device=CPU)
    assert twin.config.layer_types == kinds[:6]
    assert len(twin.model.layers) == 6
    assert twin.get_input_embeddings().weight.shape == (256, 64)
    assert (model.config.vocab_size, model.config.num_hidden_layers) == (1000, 8)
    assert len(build_twin(build("llama", num_hidden_layers=5), device=CPU).model.layers) == 2


def test_a_twin_is_made_without_a_random_number_of_the_training() -> None:
    model = build("llama")
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    build_twin(model, device=CPU)
    assert torch.equal(torch.rand(1), expected)
