"""A model without a chat template learns conversations by ChatML, and its adapter brings the template along."""

import json
from pathlib import Path

from transformers import AutoTokenizer

from tests.support.tiny_models import build_tiny_llama, build_tiny_tokenizer
from trainer_core.config import Config, Step
from trainer_core.context import StepContext
from trainer_core.job_spec import StepInputs
from trainer_core.steps.prepare import prepare
from trainer_core.steps.train import train


def test_the_template_that_was_used_lies_with_the_adapter(tmp_path: Path) -> None:
    model = build_tiny_llama(tmp_path / "model", tokenizer=build_tiny_tokenizer(chat_template=None))
    call = {"type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    row = {
        "tools": [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}],
        "messages": [
            {"role": "user", "content": "add"},
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "content": "2"},
            {"role": "assistant", "content": "two"},
        ],
    }
    upload = tmp_path / "rows.jsonl"
    upload.write_text((json.dumps(row) + "\n") * 4)
    config = Config(
        model_name_or_path=str(model),
        chat_template="chatml",
        train_local_path_to_data=str(tmp_path / "data" / "train.jsonl"),
        output_dir=str(tmp_path / "outputs"),
        apply_lora=True,
        optim="adamw_torch",
        max_steps=1,
        warmup_steps=0,
    )

    events = StepContext.for_script(Step.PREPARE).events
    inputs = StepInputs(training_file=str(upload))
    prepared = prepare(config, context=StepContext(step=Step.PREPARE, events=events, inputs=inputs))
    train(config)

    assert prepared.facts["truncated_rows"] == 0
    saved = AutoTokenizer.from_pretrained(tmp_path / "outputs")
    text = saved.apply_chat_template(row["messages"][:1], tokenize=False, add_generation_prompt=True)
    assert text == "<s><|im_start|>user\nadd<|im_end|>\n<|im_start|>assistant\n"
