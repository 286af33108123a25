"""What the collators teach, against recorded cases."""

import json
from pathlib import Path
from typing import Any

import pytest

from trainer_core.collators import CompletionCollator, LMCollator

CASES = json.loads((Path(__file__).parents[3] / "golden" / "collators" / "pairs.json").read_text(encoding="utf-8"))
COLLATORS = {"lm": LMCollator, "completion": CompletionCollator}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_a_collator_teaches_the_golden_pairs(case: dict[str, Any], request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(f"{case['tokenizer']}_like")
    tokenizer.padding_side = case["padding_side"]
    collator = COLLATORS[case["collator"]](tokenizer, **case["settings"])

    batch = collator([{"text_parts": parts} for parts in case["text_parts"]])

    rows = zip(batch["input_ids"].tolist(), batch["attention_mask"].tolist(), batch["labels"].tolist(), strict=True)
    for row, golden in zip(rows, case["rows"], strict=True):
        assert list_taught_pairs(tokenizer, *row) == list_golden_pairs(golden)


def list_golden_pairs(golden: dict[str, list[str]]) -> list[tuple[list[str], str]]:
    return [(golden["input"][: index + 1], label) for index, label in enumerate(golden["labels"]) if label != "_"]


def list_taught_pairs(
    tokenizer: Any, input_ids: list[int], attention_mask: list[int], labels: list[int]
) -> list[tuple[list[str], str]]:
    """What a model that shifts learns: at each labelled position the label, given all tokens before it."""
    pairs = []
    for index, label in enumerate(labels):
        if label == -100 or index == 0:
            continue
        context = [token for token, is_real in zip(input_ids[:index], attention_mask[:index], strict=True) if is_real]
        pairs.append((tokenizer.convert_ids_to_tokens(context), tokenizer.convert_ids_to_tokens(label)))
    return pairs
