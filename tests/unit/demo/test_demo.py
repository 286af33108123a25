"""The demo's judgement, its split of rows and its care for what lies in its folder."""

import json
from pathlib import Path

import pytest

from examples.demo.measuring import Measurements
from examples.demo.report import Report, find_problems, write_report
from examples.demo.rows import split_rows
from examples.demo.run import MARKER, _empty_folder

GOOD = {"base": 6.0, "tuned": 5.0, "fused": 5.01, "quantized": 5.2}
SHIPPED = Path(__file__).parents[3] / "examples" / "data" / "dialogues.jsonl"


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        pytest.param({}, None, id="all bounds hold"),
        pytest.param({"base": 5.29, "quantized": 5.0}, "tuning lowered the loss by 0.290", id="too little learned"),
        pytest.param({"fused": 4.97}, "fused model's loss is 0.0300 off", id="fused off, though better"),
        pytest.param({"quantized": 5.51}, "quantizing lost 0.510", id="worse than halfway back"),
        pytest.param({"quantized": float("nan")}, "quantizing lost nan", id="a loss that is no number"),
        pytest.param({"fused": float("nan")}, "fused model's loss is nan", id="another"),
    ],
)
def test_each_bound_is_judged(changed: dict[str, float], problem: str | None) -> None:
    problems = find_problems(GOOD | changed)
    if problem is None:
        assert problems == []
    else:
        assert len(problems) == 1
        assert problem in problems[0]


def test_the_report_holds_the_judgement_the_losses_and_the_sizes(tmp_path: Path) -> None:
    artifact = tmp_path / "fused"
    artifact.mkdir()
    (artifact / "model.safetensors").write_bytes(b"x" * 10)
    losses = GOOD | {"fused": 6.0}
    measurements = Measurements(losses=losses, num_rows=3, num_tokens=9, answers={"base": "", "tuned": "a"})
    report = Report(seconds=1.0, steps=[], measurements=measurements, artifacts=[artifact])
    write_report(report, tmp_path / "report.json")
    facts = json.loads((tmp_path / "report.json").read_text())
    assert facts["status"] == "failed"
    assert facts["eval_loss"]["tuned"] == 5.0
    assert facts["artifacts"] == [{"path": str(artifact), "bytes": 10}]


def test_every_tenth_row_is_held_out_and_none_is_lost(tmp_path: Path) -> None:
    rows = split_rows(SHIPPED, tmp_path / "rows")
    shipped = SHIPPED.read_text().splitlines()
    held_out = rows.validation.read_text().splitlines()
    assert held_out == shipped[::10]
    assert sorted(held_out + rows.training.read_text().splitlines()) == sorted(shipped)
    assert [message["role"] for message in rows.question][-1] == "user"


def test_a_file_of_two_texts_is_split_and_begins_the_question(tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_text('{"text": "once upon a time"}\n{"text": "and then"}\n')
    rows = split_rows(source, tmp_path / "rows")
    assert rows.validation.read_text() == '{"text": "once upon a time"}\n'
    assert rows.question == "once upon a time"


def test_a_file_of_one_row_is_refused(tmp_path: Path) -> None:
    (tmp_path / "one.jsonl").write_text('{"text": "alone"}\n')
    with pytest.raises(SystemExit, match="1 rows"):
        split_rows(tmp_path / "one.jsonl", tmp_path / "rows")


def test_only_an_earlier_demos_folder_is_emptied(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("not the demo's")
    with pytest.raises(SystemExit, match="not empty"):
        _empty_folder(tmp_path)
    assert (tmp_path / "mine.txt").exists()
    (tmp_path / MARKER).touch()
    _empty_folder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [MARKER]
