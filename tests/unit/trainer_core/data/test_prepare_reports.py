"""What prepare tells about rows: the bad ones together, what is odd, how far it has come."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.tiny_models import build_tiny_llama, build_tiny_tokenizer
from trainer_core.config import Config, Step
from trainer_core.context import StepContext
from trainer_core.datasets.rows_on_disk import RowsOnDisk
from trainer_core.errors import DataError, ModelLoadError
from trainer_core.job_spec import StepInputs
from trainer_core.steps import prepare as prepare_module
from trainer_core.steps.prepare import prepare

WriteJsonl = Callable[..., Path]


class Recorder:
    """Keeps events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, Mapping[str, Any]]] = []

    def emit(self, type: str, *, message: str = "", level: str = "info", data: Any = None) -> None:
        self.events.append((type, message, data or {}))

    def messages(self, type: str) -> list[str]:
        return [message for kind, message, _ in self.events if kind == type]


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def run(tmp_path: Path, tiny_model: Path, recorder: Recorder) -> Callable[..., Any]:
    def run_prepare(upload: Path, **keys: Any) -> Any:
        given = {
            "model_name_or_path": str(tiny_model),
            "train_local_path_to_data": str(tmp_path / "data" / "train.jsonl"),
        }
        inputs = StepInputs(training_file=str(upload))
        return prepare(Config(**(given | keys)), context=StepContext(step=Step.PREPARE, events=recorder, inputs=inputs))

    return run_prepare


def talk(answer: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": answer}]}


def test_the_first_ten_bad_rows_are_told_together(run: Any, write_jsonl: WriteJsonl) -> None:
    rows = [talk("fine"), *[talk(index) for index in range(30)], talk("fine"), {"messages": []}]
    with pytest.raises(DataError) as caught:
        run(write_jsonl(rows))

    first, *lines = caught.value.message.splitlines()
    assert first == "31 of 33 rows cannot be used; the first 10:"
    assert len(lines) == 10
    assert lines[0] == "training_file line 2: messages[1].content must be a text, not int"
    assert lines[9].startswith("training_file line 11:")
    assert caught.value.param == "training_file"


def test_the_first_ten_lines_that_are_not_json_are_told_together(run: Any, tmp_path: Path) -> None:
    upload = tmp_path / "upload.jsonl"
    lines = ['{"text": "a"}', *["{"] * 11, "[" * 100_000, '{"text": "\\ud83d"}', '{"text": "\\ud83d\\ude42"}']
    upload.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError) as caught:
        run(upload)
    message = caught.value.message
    assert message.startswith("13 of 15 rows cannot be used; the first 10:\ntraining_file line 2: not JSON:")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"text": "\\ud83d"}', "holds half of a surrogate pair"),
        ("[" * 100_000, "nested too deeply"),
        ('{"n": ' + "1" * 5_000 + "}", "not JSON: Exceeds the limit"),
    ],
)
def test_lines_that_only_python_reads_are_no_rows(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{line}\n")
    with pytest.raises(DataError, match=reason):
        RowsOnDisk(path)[0]


def test_a_missing_prefix_end_is_counted(run: Any, write_jsonl: WriteJsonl, recorder: Recorder) -> None:
    rows = [{"text_parts": ["Hello", "Bob: hi"]}, {"text_parts": ["Hello", "no mark"]}]
    run(write_jsonl(rows), collator_key="completion", collator_prefix_end=": ")
    assert recorder.messages("warning") == [
        "training_file: in 1 of 2 rows the last part does not hold collator_prefix_end=': '; all of it is learned"
    ]


def test_fewer_rows_than_a_step_takes_is_told(run: Any, write_jsonl: WriteJsonl, recorder: Recorder) -> None:
    run(write_jsonl([{"text": "a"}] * 3), gradient_accumulation_steps=4)
    (warning,) = recorder.messages("warning")
    assert "3 rows are fewer than one optimizer step takes" in warning
    assert warning.endswith("= 8: an epoch is one step")


def test_facts_tell_the_longest_row(run: Any, write_jsonl: WriteJsonl) -> None:
    facts = run(write_jsonl([{"text": "x" * 50}, {"text": "a"}]), max_length=20).facts
    assert facts["longest_row_tokens"] == 51
    assert facts["truncated_rows"] == 1


def test_a_long_check_tells_how_far_it_is(
    run: Any, write_jsonl: WriteJsonl, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare_module, "SECONDS_BETWEEN_REPORTS", 0.0)
    run(write_jsonl([{"text": "a"}] * 600))
    assert recorder.messages("progress") == [
        "training_file: 256 of 600 rows are checked",
        "training_file: 512 of 600 rows are checked",
    ]


def test_a_tokenizer_without_a_template_is_named_before_anything_is_written(
    run: Any, write_jsonl: WriteJsonl, tmp_path: Path, recorder: Recorder
) -> None:
    model = build_tiny_llama(tmp_path / "base", tokenizer=build_tiny_tokenizer(chat_template=None))
    with pytest.raises(ModelLoadError, match='set chat_template="chatml"') as caught:
        run(write_jsonl([talk("Hi")]), model_name_or_path=str(model))
    assert caught.value.param == "chat_template"
    assert not (tmp_path / "data").exists()

    run(write_jsonl([talk("Hi")] * 2), model_name_or_path=str(model), chat_template="chatml")
    assert any("its markers are tokens of the vocabulary" in message for message in recorder.messages("decision"))


def test_a_template_that_refuses_is_named(run: Any, write_jsonl: WriteJsonl) -> None:
    template = "{{ raise_exception('not today') if messages }}"
    with pytest.raises(
        DataError, match=r"line 1: the chat template refuses the messages: not today; chat_template can"
    ):
        run(write_jsonl([talk("Hi")]), chat_template=template)
