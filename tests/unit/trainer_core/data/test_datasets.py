"""Data sets, built in and as users write them."""

import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainer_core.config import Config
from trainer_core.datasets import BaseDataset, ChatDataset, GeneralDataset, SodaDataset, datasets_registry, load_dataset
from trainer_core.datasets.data_keys import DataKeys, apply_data_keys, infer_data_keys, write_data_keys
from trainer_core.datasets.json_lines import write_rows
from trainer_core.datasets.row_error import RowError
from trainer_core.datasets.rows_on_disk import RowsOnDisk
from trainer_core.datasets.soda import MappedRows
from trainer_core.datasets.splits import write_splits
from trainer_core.errors import DataError, StepInputError
from trainer_core.types import RawSample

WriteJsonl = Callable[..., Path]


class PlainDataset(BaseDataset):
    """As the documentation writes one: `get_data` without @classmethod."""

    def get_data(cls, config: Config) -> Any:
        return [{"n": index, "cls": cls.__name__} for index in range(4)], None

    def get_sample(self, index: int) -> RawSample:
        return {"text_parts": [str(self.data[index]["n"])]}


class MarkedDataset(PlainDataset):
    """The same with @classmethod, more keys, and a constructor of its own."""

    def __init__(self, data: list[RawSample], suffix: str = "") -> None:
        super().__init__(data=data)
        self.suffix = suffix
        self.must_have_keys.append("answer")

    @classmethod
    def get_data(cls, config: Config) -> Any:
        return [{"n": 1, "cls": cls.__name__}], None


@pytest.mark.parametrize("dataset_class", [PlainDataset, MarkedDataset])
def test_get_data_works_with_and_without_classmethod(dataset_class: type[BaseDataset]) -> None:
    data = dataset_class.get_data(Config())
    assert data is not None
    assert data[0][0]["cls"] == dataset_class.__name__


def test_a_sample_without_its_must_have_keys_names_class_row_and_keys() -> None:
    dataset = MarkedDataset(data=[{"n": 1}, {"n": 2}])
    with pytest.raises(ValueError, match="MarkedDataset, row 1: the sample has no 'answer'"):
        dataset[1]


def test_must_have_keys_may_be_given() -> None:
    class Own(PlainDataset):
        def get_sample(self, index: int) -> RawSample:
            return {"chosen": "a"}

    assert Own([{}], must_have_keys=["chosen"])[0] == {"chosen": "a"}
    with pytest.raises(RowError, match="'text_parts'"):
        Own([{}])[0]


def test_errors_of_rows_and_samples_survive_pickling() -> None:
    # A DataLoader's worker hands its error over by pickle.
    error = pickle.loads(pickle.dumps(RowError("no text", index=3, dataset="Own")))
    assert (str(error), error.index) == ("Own, row 3: no text", 3)


def test_load_hands_its_arguments_to_the_constructor(write_jsonl: WriteJsonl) -> None:
    dataset = MarkedDataset.load(str(write_jsonl([{"n": 1}, {"n": 2}])), suffix="!")
    assert (len(dataset), dataset.suffix) == (2, "!")
    assert isinstance(dataset.data, list)


def test_load_of_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StepInputError, match="run the step prepare first"):
        GeneralDataset.load(str(tmp_path / "none.jsonl"))


def test_built_in_data_sets_leave_rows_on_disk_and_their_subclasses_do_not(write_jsonl: WriteJsonl) -> None:
    class Own(GeneralDataset):
        pass

    path = str(write_jsonl([{"text": "a"}]))
    assert isinstance(GeneralDataset.load(path).data, RowsOnDisk)
    assert isinstance(Own.load(path).data, list)


@pytest.mark.parametrize(
    ("row", "separator", "parts"),
    [
        ({"text": "a|b|"}, None, ["a|b|"]),
        ({"text": "a|b|"}, "|", ["a", "b", ""]),
        ({"text": ["a", "b"]}, None, ["a", "b"]),
        ({"text_parts": ["a", "b"]}, None, ["a", "b"]),
        ({"text_parts": "scalar"}, None, ["scalar"]),
        (["a", "b"], None, ["a", "b"]),
    ],
)
def test_general_rows_become_parts(row: Any, separator: str | None, parts: list[str]) -> None:
    assert GeneralDataset([row], separator=separator)[0] == {"text_parts": parts}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"content": "a"}, "the row has neither 'text' nor 'text_parts'; it has 'content'"),
        ({}, "it has no key"),
        ({"text": 3}, "'text' must be a text or a list of texts, not int"),
        (None, "not NoneType"),
    ],
)
def test_a_general_row_without_text_is_an_error(row: Any, reason: str) -> None:
    with pytest.raises(RowError, match=reason):
        GeneralDataset([row])[0]


def test_from_list_takes_texts_and_lists() -> None:
    dataset = GeneralDataset.from_list(data=["Hello!", ["a", "b"]])
    assert [dataset[0], dataset[1]] == [{"text_parts": ["Hello!"]}, {"text_parts": ["a", "b"]}]


def test_the_sample_field_comes_from_the_config_unless_it_is_given(write_jsonl: WriteJsonl) -> None:
    path = str(write_jsonl([{"content": "c", "body": "b"}]))
    config = Config(dataset_key="general", dataset_sample_field="content", train_local_path_to_data=path)

    assert load_dataset(config, path)[0] == {"text_parts": ["c"]}
    assert load_dataset(config, path, sample_field="body")[0] == {"text_parts": ["b"]}


def test_an_empty_separator_is_refused() -> None:
    with pytest.raises(ValueError, match="separator"):
        GeneralDataset([], separator="")


def test_chat_rows_are_handed_over_whole() -> None:
    row = {"messages": [], "tools": [{}], "enable_thinking": False}
    dataset = ChatDataset([row, {"text": "a"}, {"preferred_output": [{}]}])

    assert dataset[0] == row
    with pytest.raises(RowError, match="has no 'messages'"):
        dataset[1]
    with pytest.raises(RowError, match="'preferred_output' belong to rows of preferences, which are not supported"):
        dataset[2]


SODA_ROW = {"header": "Bob\nmeets Ann.", "dialog": ["Bob: Hi\r\nAnn", 3, "Ann: Hello"]}


def test_soda_drops_the_same_headers_each_time_and_about_one_in_twenty() -> None:
    rows = [SODA_ROW] * 4000
    first, again, other = SodaDataset(rows, seed=1), SodaDataset(rows, seed=1), SodaDataset(rows, seed=2)
    lengths = [len(first[index]["text_parts"]) for index in range(len(rows))]

    assert lengths == [len(again[index]["text_parts"]) for index in range(len(rows))]
    assert lengths != [len(other[index]["text_parts"]) for index in range(len(rows))]
    assert 0.035 < lengths.count(2) / len(rows) < 0.065


def test_a_soda_sample_is_header_and_utterances_on_one_line_each() -> None:
    dataset = SodaDataset([SODA_ROW, {"dialog": "text"}], header_drop_probability=0)
    assert dataset[0] == {"text_parts": ["Bob meets Ann.", "Bob: Hi  Ann", "Ann: Hello"]}
    with pytest.raises(RowError, match="'dialog' must be a list"):
        dataset[1]


def config_for(folder: Path, **keys: Any) -> Config:
    return Config(train_local_path_to_data=str(folder / "train.jsonl"), **keys)


def read_numbers(path: Path) -> list[int]:
    return [row["n"] for row in RowsOnDisk(path)]


def rows_from(start: int, stop: int) -> list[RawSample]:
    return [{"n": index} for index in range(start, stop)]


@pytest.mark.parametrize(
    ("keys", "has_eval_path", "train", "evaluation"),
    [
        ({}, True, range(4), range(10, 15)),
        ({"max_eval_samples": 2}, True, [*range(4), 12, 13, 14], [10, 11]),
        ({"max_eval_samples": 0}, True, range(4), range(10, 15)),
        ({"max_eval_samples": -1}, True, range(4), range(10, 15)),
        ({}, False, range(4), None),
        ({"add_eval_to_train_if_no_path": True}, False, [*range(4), *range(10, 15)], None),
        ({"add_eval_to_train_if_no_path": True}, True, range(4), range(10, 15)),
    ],
)
def test_evaluation_rows_go_where_the_rules_say(
    tmp_path: Path, keys: dict[str, Any], has_eval_path: bool, train: Any, evaluation: Any
) -> None:
    eval_path = tmp_path / "deep" / "eval.jsonl"
    config = config_for(
        tmp_path, shuffle=False, eval_local_path_to_data=str(eval_path) if has_eval_path else None, **keys
    )
    given = rows_from(0, 4), rows_from(10, 15)

    splits = write_splits(given, config)

    assert read_numbers(tmp_path / "train.jsonl") == list(train)
    assert eval_path.exists() == (evaluation is not None)
    if evaluation is not None:
        assert read_numbers(eval_path) == list(evaluation)
    assert splits.num_train_rows == len(list(train))
    assert given == (rows_from(0, 4), rows_from(10, 15))


def test_shuffling_depends_on_the_seed_alone(tmp_path: Path) -> None:
    orders = []
    for seed, noise in ((1, 0), (1, 5), (2, 0)):
        random.seed(noise)
        write_splits((rows_from(0, 50), None), config_for(tmp_path, seed=seed))
        orders.append(read_numbers(tmp_path / "train.jsonl"))
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == list(range(50)) != orders[0]


def test_no_training_rows_is_an_error_and_writes_nothing(tmp_path: Path) -> None:
    config = config_for(tmp_path, eval_local_path_to_data=str(tmp_path / "eval.jsonl"))
    with pytest.raises(DataError, match="no training rows"):
        write_splits(([], rows_from(0, 3)), config)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("row", [{"n": {1, 2}}, {"n": "\ud800"}])
def test_a_row_that_json_cannot_hold_leaves_the_old_file(tmp_path: Path, row: Any) -> None:
    path = tmp_path / "train.jsonl"
    write_rows(path, [{"n": 1}])
    with pytest.raises(DataError, match="row 2 of the data"):
        write_rows(path, [{"n": 2}, row])
    assert read_numbers(path) == [1]
    assert list(tmp_path.iterdir()) == [path]


def test_rows_are_stored_as_utf8_one_a_line(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl", [{"t": "Ünï\u2028\n😀"}])
    assert (tmp_path / "a.jsonl").read_bytes() == '{"t": "Ünï\u2028\\n😀"}\n'.encode()
    assert RowsOnDisk(tmp_path / "a.jsonl")[0] == {"t": "Ünï\u2028\n😀"}


def test_rows_on_disk_know_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"n": 0}\r\n\n  \n{"n": 1}\nnot json\n{"n": 2}')
    rows = RowsOnDisk(path)

    assert len(rows) == 4
    assert (rows[0], rows[1], rows[-1], rows[:2]) == ({"n": 0}, {"n": 1}, {"n": 2}, [{"n": 0}, {"n": 1}])
    assert [rows.get_line_number(index) for index in range(4)] == [1, 4, 5, 6]
    with pytest.raises(DataError, match=r"a\.jsonl line 5: not JSON"):
        rows[2]
    with pytest.raises(IndexError):
        rows[4]
    assert pickle.loads(pickle.dumps(rows))[1] == {"n": 1}


@pytest.mark.parametrize(
    ("row", "keys", "inferred"),
    [
        ({"messages": []}, {}, DataKeys("chat", "chat")),
        ({"messages": []}, {"collator_key": "mine"}, DataKeys("chat", "mine")),
        ({"messages": [], "text": ""}, {}, DataKeys("chat", "chat")),
        ({"text": ""}, {}, DataKeys("general", "lm")),
        ({"text_parts": []}, {"collator_key": "completion"}, DataKeys("general", "completion")),
        ({"body": "", "messages": []}, {"dataset_sample_field": "body"}, DataKeys("general", "lm")),
        ({"body": ""}, {"dataset_key": "mine"}, DataKeys("mine", "lm")),
        ({"messages": []}, {"dataset_key": "chat"}, DataKeys("chat", "chat")),
    ],
)
def test_the_first_row_calls_for_its_components(row: Any, keys: dict[str, str], inferred: DataKeys) -> None:
    assert infer_data_keys(Config(**keys), row) == inferred


@pytest.mark.parametrize("row", [{"prompt": "a"}, {}, [], "text"])
def test_a_row_of_no_known_shape_is_an_error_that_names_the_shapes(row: Any) -> None:
    with pytest.raises(DataError, match=r"'messages'.*'text_parts' or 'text'"):
        infer_data_keys(Config(), row)


def test_inferred_keys_reach_later_steps_through_the_data_folder(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    assert apply_data_keys(config).dataset_key == "soda"
    write_data_keys(tmp_path, DataKeys("chat", "chat"))

    applied = apply_data_keys(config)

    assert (applied.dataset_key, applied.collator_key) == ("chat", "chat")
    assert config.dataset_key == "soda"
    assert apply_data_keys(config_for(tmp_path, dataset_key="general")).dataset_key == "general"


def test_somebody_elses_dataset_json_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text('{"dataset_key": "chat", "title": "x"}')
    assert apply_data_keys(config_for(tmp_path)).dataset_key == "soda"


def test_keys_of_the_registry() -> None:
    assert datasets_registry.keys() == ["chat", "default", "general", "soda"]
    assert datasets_registry.get("default") is GeneralDataset


def test_mapped_rows_convert_when_they_are_read() -> None:
    rows = MappedRows([{"n": 1}, {"n": 2}, {"n": 3}], indices=[0, 2], convert=lambda row: {"m": row["n"]})
    assert list(rows) == [{"m": 1}, {"m": 3}]
