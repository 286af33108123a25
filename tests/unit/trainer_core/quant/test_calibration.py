"""Where calibration rows come from and how they are rendered."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from trainer_core.errors import StepInputError
from trainer_core.job_spec import StepInputs
from trainer_core.quantizers.calibration import find_calibration_rows, render_calibration


def write_lines(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("has_given", "has_named", "has_own", "expected"),
    [
        pytest.param(True, True, True, "given", id="the job's calibration file first"),
        pytest.param(False, True, True, "named", id="then quantization_dataset_id"),
        pytest.param(False, False, True, "own", id="then the prepared training data"),
        pytest.param(False, False, False, "earlier", id="then another job's"),
    ],
)
def test_the_first_source_that_there_is_gives_the_rows(
    make_config, tmp_path, has_given, has_named, has_own, expected
) -> None:
    for name in ("given", "named", "earlier"):
        write_lines(tmp_path / name, [{"text": "x"}])
    if has_own:
        write_lines(tmp_path / "own", [{"text": "x"}])
    config = make_config(
        train_local_path_to_data=str(tmp_path / "own"),
        quantization_dataset_id=str(tmp_path / "named") if has_named else None,
    )
    inputs = StepInputs(
        calibration_file=str(tmp_path / "given") if has_given else None, prepared_train=str(tmp_path / "earlier")
    )
    assert find_calibration_rows(config, inputs).name == str(tmp_path / expected)


@pytest.mark.parametrize(("limit", "num_samples"), [(5, 5), (0, 72), (1000, 72)])
def test_samples_are_the_first_rows_one_a_batch_cut_at_max_length(
    make_config, trained_model, chat_rows, limit, num_samples
) -> None:
    config = make_config(quantization_max_samples=limit, max_length=24)
    tokenizer = AutoTokenizer.from_pretrained(trained_model)
    batches = render_calibration(find_calibration_rows(config, StepInputs()), config=config, tokenizer=tokenizer)
    assert len(batches) == num_samples
    assert max(batch["input_ids"].shape[1] for batch in batches) == 24
    assert all(batch["input_ids"].shape[0] == 1 and bool(batch["attention_mask"].all()) for batch in batches)
    first = json.loads(chat_rows.read_text().splitlines()[0])["messages"]
    rendered = tokenizer.apply_chat_template(first, tokenize=True, return_dict=True)["input_ids"]
    assert len({*batches[0]["input_ids"][0].tolist()} - {*rendered}) == 0


def test_a_given_file_of_texts_is_rendered_by_its_own_first_row(make_config, trained_model, tmp_path) -> None:
    path = write_lines(tmp_path / "texts.jsonl", [{"text": "the cat reads"}, {"text": "Bob sells ten apples"}])
    config = make_config(dataset_key="soda", quantization_dataset_id=str(path))
    tokenizer = AutoTokenizer.from_pretrained(trained_model)
    batches = render_calibration(find_calibration_rows(config, StepInputs()), config=config, tokenizer=tokenizer)
    assert tokenizer.decode(batches[0]["input_ids"][0], skip_special_tokens=True) == "the cat reads"
    assert isinstance(batches[1]["labels"], torch.Tensor)


def test_a_name_that_is_neither_file_nor_data_set_is_refused_without_a_network(
    make_config, trained_model, monkeypatch
) -> None:
    from huggingface_hub import constants

    # What the service's environment says before the process starts cannot be said to a running one otherwise.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    config = make_config(quantization_dataset_id="owner/rows")
    rows = find_calibration_rows(config, StepInputs())
    with pytest.raises(StepInputError, match="there is no file 'owner/rows' here"):
        render_calibration(rows, config=config, tokenizer=AutoTokenizer.from_pretrained(trained_model))


@pytest.mark.parametrize(
    ("content", "values", "words"),
    [
        pytest.param("", {"dataset_key": "general"}, "has no row", id="an empty file"),
        pytest.param('{"question": "x"}\n', {"dataset_key": "soda"}, "rows need 'messages'", id="no known shape"),
        pytest.param('{"question": "x"}\n', {"dataset_key": "chat"}, "'messages'", id="not the data set's shape"),
        pytest.param("{broken\n", {"dataset_key": "soda"}, "rows need", id="no JSON"),
    ],
)
def test_rows_that_cannot_calibrate_are_an_error_that_names_the_option(
    make_config, trained_model, tmp_path, content, values, words
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(content)
    config = make_config(**values, quantization_dataset_id=str(path))
    rows = find_calibration_rows(config, StepInputs())
    with pytest.raises(StepInputError, match=words) as caught:
        render_calibration(rows, config=config, tokenizer=AutoTokenizer.from_pretrained(trained_model))
    assert caught.value.param == "quantization_dataset_id"
    assert caught.value.message.startswith("quantization_dataset_id: ")
