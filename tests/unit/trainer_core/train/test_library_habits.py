"""What is done about libraries' habits."""

import logging
import subprocess
import sys

import accelerate.utils.other
import pytest

from trainer_core.config import Config
from trainer_core.models.library_habits import spare_deepspeed_import, tell_casts_once

PROGRAM = """
import sys
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments
from trainer_core.config import Config
from trainer_core.models.library_habits import spare_deepspeed_import
spare_deepspeed_import(Config())
shape = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
Trainer(model=LlamaForCausalLM(LlamaConfig(**shape)), args=TrainingArguments(output_dir=sys.argv[1], use_cpu=True))
print("deepspeed" in sys.modules)
"""


def test_a_training_without_deepspeed_does_not_import_it(tmp_path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1] == "False"


def test_a_training_with_deepspeed_is_looked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerate.utils.other, "is_deepspeed_available", None)
    spare_deepspeed_import(Config(deepspeed_stage=2))
    assert accelerate.utils.other.is_deepspeed_available()


def test_eight_bit_products_tell_their_casts_once(caplog: pytest.LogCaptureFixture) -> None:
    tell_casts_once()
    logger = logging.getLogger("bitsandbytes.autograd._functions")
    # A message of its own, since another test's product may have told the real one.
    for kind in ("float32", "bfloat16"):
        logger.warning("inputs will be cast from %s", kind)
    assert [record.getMessage() for record in caplog.records] == ["inputs will be cast from float32"]
