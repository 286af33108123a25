"""Losses that depend on tokens alone, and answers."""

import json
import math
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from trainer_core.errors import DataError, ModelLoadError, QuantizationError
from trainer_core.evaluation import evaluate_loss, measure_loss
from trainer_core.generation import generate_answer
from trainer_core.quantizers.verification import measure_in_fresh_process


def test_the_loss_does_not_depend_on_the_batch_size(make_config, trained_model, chat_rows) -> None:
    alone = evaluate_loss(trained_model, chat_rows, make_config(per_device_eval_batch_size=1))
    together = evaluate_loss(trained_model, chat_rows, make_config(per_device_eval_batch_size=7))
    assert alone.num_rows == together.num_rows == 72
    assert alone.num_tokens == together.num_tokens
    assert alone.loss == pytest.approx(together.loss, abs=1e-5)


def test_the_loss_is_the_mean_over_tokens_that_torch_computes() -> None:
    class Uniform(torch.nn.Module):
        device = torch.device("cpu")

        def forward(self, input_ids, attention_mask, use_cache):
            from types import SimpleNamespace

            logits = torch.zeros(*input_ids.shape, 8)
            logits[:, 0, 3] = 5.0
            return SimpleNamespace(logits=logits)

    batch = {
        "input_ids": torch.tensor([[1, 3, 2, 4]]),
        "attention_mask": torch.ones(1, 4, dtype=torch.long),
        "labels": torch.tensor([[-100, 3, -100, 4]]),
    }
    measured = measure_loss(Uniform(), [batch])
    sure = math.log(math.exp(5) + 7) - 5
    assert measured.num_tokens == 2
    assert measured.loss == pytest.approx((sure + math.log(8)) / 2, abs=1e-6)


def test_an_adapter_changes_the_loss_and_the_base_stays(make_config, trained_model, chat_rows, tmp_path) -> None:
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(trained_model),
        LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"),
    )
    model.save_pretrained(tmp_path / "adapter")
    config = make_config()
    plain = evaluate_loss(trained_model, chat_rows, config)
    adapted = evaluate_loss(trained_model, chat_rows, config, adapter_path=tmp_path / "adapter")
    assert abs(adapted.loss - plain.loss) > 0.01
    assert evaluate_loss(trained_model, chat_rows, config).loss == plain.loss


def test_with_keys_at_their_defaults_the_first_row_chooses(make_config, trained_model, chat_rows) -> None:
    chosen = evaluate_loss(trained_model, chat_rows, make_config(dataset_key="soda"))
    assert chosen == evaluate_loss(trained_model, chat_rows, make_config(dataset_key="chat", collator_key="chat"))


def test_an_empty_file_and_a_missing_model_are_named(make_config, trained_model, chat_rows, tmp_path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match=r"empty\.jsonl has no row"):
        evaluate_loss(trained_model, tmp_path / "empty.jsonl", make_config())
    with pytest.raises(ModelLoadError, match="nowhere"):
        evaluate_loss(tmp_path / "nowhere", chat_rows, make_config())


def test_an_answer_is_the_greedy_continuation_without_the_prompt(make_config, trained_model) -> None:
    messages = [{"role": "user", "content": "the cat reads"}]
    answers = {generate_answer(trained_model, messages, make_config(), max_new_tokens=12) for _ in range(2)}
    assert len(answers) == 1
    assert "the cat reads" not in answers.pop()
    assert generate_answer(trained_model, "the cat reads", make_config(), max_new_tokens=12)


def make_batches(folder: Path) -> list[dict[str, torch.Tensor]]:
    ids = AutoTokenizer.from_pretrained(folder)("the cat reads a long letter", return_tensors="pt")["input_ids"]
    return [{"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}]


def test_a_model_that_cannot_be_loaded_again_is_a_quantization_error(trained_model, tmp_path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(QuantizationError, match="cannot be loaded again"):
        measure_in_fresh_process(tmp_path, make_batches(trained_model))


def test_a_model_whose_loss_is_no_number_is_a_quantization_error(trained_model, tmp_path) -> None:
    model = AutoModelForCausalLM.from_pretrained(trained_model)
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(trained_model).save_pretrained(tmp_path)
    with pytest.raises(QuantizationError, match="of no use"):
        measure_in_fresh_process(tmp_path, make_batches(trained_model))
