"""The step prepare as the service and as scripts call it."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer_core.collators import BaseCollator, collators_registry
from trainer_core.config import Config, ConfigError, Step
from trainer_core.context import StepContext
from trainer_core.datasets import BaseDataset, datasets_registry
from trainer_core.datasets.rows_on_disk import RowsOnDisk
from trainer_core.errors import DataError, ModelLoadError, StepInputError
from trainer_core.job_spec import StepInputs
from trainer_core.steps.prepare import prepare
from trainer_core.types import Batch, RawSample

WriteJsonl = Callable[..., Path]


@dataclass
class Recorder:
    """Keeps events."""

    events: list[tuple[str, str, Mapping[str, Any]]] = field(default_factory=list)

    def emit(self, type: str, *, message: str = "", level: str = "info", data: Any = None) -> None:
        self.events.append((type, message, data or {}))

    def messages(self, type: str) -> list[str]:
        return [message for kind, message, _ in self.events if kind == type]


@dataclass
class Bench:
    """A job's folder, and prepare run in it."""

    root: Path
    model: Path
    recorder: Recorder = field(default_factory=Recorder)

    def run(self, inputs: StepInputs | None = None, **keys: Any) -> Any:
        paths = {
            "model_name_or_path": str(self.model),
            "train_local_path_to_data": str(self.root / "data" / "train.jsonl"),
            "eval_local_path_to_data": str(self.root / "data" / "eval.jsonl"),
        }
        context = StepContext(step=Step.PREPARE, events=self.recorder, inputs=inputs or StepInputs())
        return prepare(Config(**(paths | keys)), context=context)

    def rows(self, name: str = "train.jsonl") -> list[Any]:
        return list(RowsOnDisk(self.root / "data" / name))


@pytest.fixture
def bench(tmp_path: Path, tiny_model: Path) -> Bench:
    return Bench(root=tmp_path, model=tiny_model)


def talk(answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": answer}]}


class NumbersDataset(BaseDataset):
    """Brings rows of its own, as a user's class does."""

    def get_data(cls, config: Config) -> Any:
        return [{"n": index} for index in range(5)], [{"n": index} for index in range(10, 14)]

    def get_sample(self, index: int) -> RawSample:
        return {"text_parts": [f"number {self.data[index]['n']}"]}


class ShiftedCollator(BaseCollator):
    """As X-LLM's users wrote theirs: labels shifted, padding learned."""

    def parse_batch(self, raw_batch: list[RawSample]) -> Batch:
        texts = [sample["text_parts"][-1] for sample in raw_batch]
        encoded = self.tokenizer(texts, return_tensors="pt", padding=True, truncation=True, max_length=self.max_length)
        return {
            "input_ids": encoded.input_ids[:, :-1],
            "attention_mask": encoded.attention_mask[:, :-1],
            "labels": encoded.input_ids[:, 1:],
        }


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(datasets_registry._values, "numbers", NumbersDataset)
    monkeypatch.setitem(collators_registry._values, "shifted", ShiftedCollator)


def test_uploaded_conversations_are_checked_counted_and_copied(bench: Bench, write_jsonl: WriteJsonl) -> None:
    rows = [talk(f"answer {index}") for index in range(300)]
    result = bench.run(StepInputs(training_file=str(write_jsonl(rows))))

    assert bench.rows() != rows
    assert sorted(map(str, bench.rows())) == sorted(map(str, rows))
    assert json.loads((bench.root / "data" / "dataset.json").read_text()) == {
        "dataset_key": "chat",
        "collator_key": "chat",
    }
    (data,) = result.artifacts
    assert (data.name, data.root, data.files) == ("data", bench.root / "data", ("dataset.json", "train.jsonl"))
    facts = result.facts
    assert (facts["rows"], facts["truncated_rows"], facts["dataset_key"]) == (300, 0, "chat")
    assert 300 * 5 < facts["supervised_tokens"] < facts["tokens"]
    assert bench.recorder.messages("decision") == ["The first row calls for dataset_key=chat, collator_key=chat"]
    assert bench.recorder.messages("warning") == []


def test_unshuffled_rows_are_copied_byte_for_byte(bench: Bench, tmp_path: Path) -> None:
    upload = tmp_path / "upload.jsonl"
    upload.write_bytes('\ufeff{"text":  "Ünï"}\r\n\n{"text": "b\\u00e9", "extra": 1.50}'.encode())

    bench.run(StepInputs(training_file=str(upload)), shuffle=False)

    written = (bench.root / "data" / "train.jsonl").read_bytes()
    assert written == '{"text":  "Ünï"}\n{"text": "b\\u00e9", "extra": 1.50}\n'.encode()


def test_validation_rows_are_never_trained_on(bench: Bench, write_jsonl: WriteJsonl) -> None:
    train = write_jsonl([{"text": "train a"}, {"text": "train b"}], "t.jsonl")
    validation = write_jsonl([{"text": f"eval {index}"} for index in range(5)], "v.jsonl")

    result = bench.run(
        StepInputs(training_file=str(train), validation_file=str(validation)),
        max_eval_samples=3,
        add_eval_to_train_if_no_path=True,
    )

    assert sorted(row["text"] for row in bench.rows()) == ["train a", "train b"]
    assert [row["text"] for row in bench.rows("eval.jsonl")] == ["eval 0", "eval 1", "eval 2"]
    assert (result.facts["rows"], result.facts["eval_rows"]) == (2, 3)
    assert bench.recorder.messages("warning") == ["validation_file: 2 rows above max_eval_samples=3 are left out"]


@pytest.mark.parametrize(
    ("rows", "keys", "message"),
    [
        ([{"text": "a"}, {"text": "b"}, {"body": "c"}], {}, r"training_file line 3: .*neither 'text' nor 'text_parts'"),
        ([talk("a"), {"text": "b"}], {}, r"training_file line 2: the sample has no 'messages'"),
        ([talk("a"), {"messages": [{"role": "user", "content": "x"}]}], {}, r"line 2: 'messages' has no assistant"),
        ([{"text": "a"}, {"text": ""}], {}, r"line 2: there is nothing to learn in its 1 tokens"),
        (
            [{"text_parts": ["a", "x:"]}],
            {"max_length": 1, "collator_key": "completion"},
            r"line 1: nothing to learn is",
        ),
        ([{"prompt": "a"}], {}, "the first row has 'prompt'; rows need 'messages'"),
        ([{"text": "a"}, {"text": [{}]}], {}, r"line 2: 'text_parts' holds dict"),
    ],
)
def test_a_bad_row_is_named_by_its_line_and_nothing_is_written(
    bench: Bench, write_jsonl: WriteJsonl, rows: list[Any], keys: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        bench.run(StepInputs(training_file=str(write_jsonl(rows))), **keys)
    assert caught.value.param == "training_file"
    assert not (bench.root / "data").exists()


def test_a_line_that_is_not_json_is_named(bench: Bench, tmp_path: Path) -> None:
    upload = tmp_path / "upload.jsonl"
    upload.write_text('{"text": "a"}\n\n{"text": \n')
    with pytest.raises(DataError, match="training_file line 3: not JSON") as caught:
        bench.run(StepInputs(training_file=str(upload)))
    assert caught.value.param == "training_file"


def test_cut_rows_are_counted_and_told(bench: Bench, write_jsonl: WriteJsonl) -> None:
    path = write_jsonl([{"text": "the cat " * 100}, {"text": "short"}])
    result = bench.run(StepInputs(training_file=str(path)), max_length=16)

    assert result.facts["truncated_rows"] == 1
    assert bench.recorder.messages("warning") == [
        "training_file: 1 of 2 rows are longer than max_length=16 tokens and were cut"
    ]


def test_a_data_set_brings_its_own_rows(bench: Bench) -> None:
    result = bench.run(dataset_key="numbers", max_eval_samples=3)

    assert sorted(row["n"] for row in bench.rows()) == [0, 1, 2, 3, 4, 13]
    assert [row["n"] for row in bench.rows("eval.jsonl")] == [10, 11, 12]
    assert result.artifacts[0].files == ("eval.jsonl", "train.jsonl")
    assert (result.facts["rows"], result.facts["eval_rows"]) == (6, 3)


def test_a_validation_file_takes_the_place_of_a_data_sets_evaluation_rows(
    bench: Bench, write_jsonl: WriteJsonl
) -> None:
    bench.run(StepInputs(validation_file=str(write_jsonl([{"n": 99}]))), dataset_key="numbers")

    assert [row["n"] for row in bench.rows("eval.jsonl")] == [99]
    assert sorted(row["n"] for row in bench.rows()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("keys", [{"prepare_dataset": False}, {"dataset_key": "general"}])
def test_existing_data_are_left_as_they_are(bench: Bench, keys: dict[str, Any]) -> None:
    (bench.root / "data").mkdir()
    content = '{"text": "b"}\n{"text": "a"}\n'
    (bench.root / "data" / "train.jsonl").write_text(content)

    result = bench.run(**({"dataset_key": "general"} | keys))

    assert (bench.root / "data" / "train.jsonl").read_text() == content
    assert result.facts["rows"] == 2


@pytest.mark.parametrize(
    ("keys", "cause"),
    [
        ({"prepare_dataset": False, "dataset_key": "numbers"}, "prepare_dataset is off"),
        ({"dataset_key": "chat"}, "the data set 'chat' brings no rows"),
    ],
)
def test_no_data_at_all_names_the_ways_to_give_some(bench: Bench, keys: dict[str, Any], cause: str) -> None:
    with pytest.raises(StepInputError, match=cause + r".*training_file.*input_job.*dataset_key"):
        bench.run(**keys)


def test_the_same_seed_writes_the_same_file(bench: Bench, write_jsonl: WriteJsonl) -> None:
    inputs = StepInputs(training_file=str(write_jsonl([{"text": f"row {index}"} for index in range(40)])))
    written = []
    for seed in (1, 1, 2):
        bench.run(inputs, seed=seed)
        written.append((bench.root / "data" / "train.jsonl").read_bytes())
    assert written[0] == written[1] != written[2]


def test_a_collator_that_shifts_its_labels_is_refused(bench: Bench) -> None:
    with pytest.raises(DataError, match="ShiftedCollator cannot be trained with: its labels") as caught:
        bench.run(dataset_key="numbers", collator_key="shifted")
    assert caught.value.param == "collator_key"

    bench.run(dataset_key="numbers", collator_key="shifted", trainer_key="mine")
    assert any("shifted by one already" in message for message in bench.recorder.messages("warning"))


def test_a_users_get_sample_that_fails_is_told_with_its_row(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Any, index: int) -> RawSample:
        return {"text_parts": [self.data[index]["missing"]]}

    monkeypatch.setattr(NumbersDataset, "get_sample", fail)
    with pytest.raises(DataError, match=r"train\.jsonl line 1: NumbersDataset.get_sample failed: KeyError"):
        bench.run(dataset_key="numbers")


def test_an_experiment_of_a_users_own_turns_the_check_into_a_warning(bench: Bench, write_jsonl: WriteJsonl) -> None:
    class Demanding(BaseCollator):
        def __init__(self, tokenizer: Any, max_length: int, needed: int) -> None:
            raise NotImplementedError

        def parse_batch(self, raw_batch: list[RawSample]) -> Batch:
            return {"input_ids": torch.zeros(1, 1)}

    collators_registry._values["shifted"] = Demanding
    bench.run(dataset_key="numbers", collator_key="shifted", experiment_key="mine")

    assert all("without the experiment 'mine'" in message for message in bench.recorder.messages("warning"))
    assert len(bench.recorder.messages("warning")) == 2


def test_wrong_components_are_found_in_prepare(bench: Bench, write_jsonl: WriteJsonl, tmp_path: Path) -> None:
    upload = StepInputs(training_file=str(write_jsonl([{"text": "a"}])))
    with pytest.raises(ConfigError, match="collator_prefix_end"):
        bench.run(upload, collator_prefix_end=":")
    with pytest.raises(ModelLoadError, match="there is no folder"):
        bench.run(upload, model_name_or_path=str(tmp_path / "nowhere"))
    with pytest.raises(StepInputError, match="training_file: there is no file"):
        bench.run(StepInputs(training_file=str(tmp_path / "none.jsonl")))


def test_a_script_needs_no_context(bench: Bench) -> None:
    config = Config(
        model_name_or_path=str(bench.model),
        dataset_key="numbers",
        train_local_path_to_data=str(bench.root / "somewhere" / "train.jsonl"),
    )
    assert prepare(config).facts["rows"] == 5
