"""Calibration rows from a local hub, through the real libraries."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.fake_hub import FakeHub
from trainer_core.attempt.staged_inputs import read_staged_record, write_staged_record
from trainer_core.attempt.step_config import build_step_config
from trainer_core.enums import Step
from trainer_core.job_spec import JobSpec
from trainer_core.staging import StagedInputs
from trainer_core.workspace import Workspace

# HF_ENDPOINT acts on a process that starts with it: all fetches of this file share one.
SCRIPT = """
import json, sys
from pathlib import Path
from trainer_core.errors import TrainerError
from trainer_core.config import Step, build_config
from trainer_core.job_spec import StepInputs
from trainer_core.quantizers.calibration_source import fetch_hub_rows
from trainer_core.staging import stage_hub_inputs

def stage_rows(name, max_rows):
    config = build_config({"quantization_dataset_id": name, "quantization_max_samples": max_rows})
    return Path(stage_hub_inputs(config, [Step.QUANTIZE], inputs=StepInputs(model="/a/model")).calibration)

for name, options in json.loads(sys.argv[1]):
    try:
        path = stage_rows(name, **options["stage"]) if "stage" in options else fetch_hub_rows(name, **options)
        print(json.dumps({"path": str(path), "rows": [json.loads(line) for line in path.read_text().splitlines()]}))
    except TrainerError as error:
        answer = {"kind": type(error).__name__, "message": error.message, "param": error.param}
        print(json.dumps(answer | {"retryable": error.retryable}))
"""
Fetches = dict[str, dict]


def write_lines(rows: list[dict]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def run_fetches(hub_url: str, folder: Path, asked: Mapping[str, tuple[str, dict]]) -> Fetches:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(list(asked.values()))],
        env={
            **clean,
            "HF_ENDPOINT": hub_url,
            "HF_HOME": str(folder),
            "PYTHONPATH": str(Path(__file__).parents[4]),
        },
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(zip(asked, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.fixture(scope="module")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> Fetches:
    """What each fetch gave: the rows, or the error."""
    folder = tmp_path_factory.mktemp("home")
    with FakeHub() as hub:
        first = hub.add_commit(
            "owner/rows",
            {"train.jsonl": write_lines([{"text": f"row {n}"} for n in range(5)]), "test.jsonl": write_lines([])},
            kind="datasets",
        )
        hub.add_commit("owner/rows", {"train.jsonl": write_lines([{"text": "newer"}])}, kind="datasets")
        card = "---\nconfigs:\n- config_name: a\n  data_files: a.jsonl\n- config_name: b\n  data_files: b.jsonl\n---\n"
        subsets = {"README.md": card.encode(), "a.jsonl": write_lines([{"text": "a"}])}
        hub.add_commit("owner/two", subsets | {"b.jsonl": write_lines([{"text": "b"}])}, kind="datasets")
        hub.add_commit("owner/tests", {"test.jsonl": write_lines([{"text": "x"}])}, kind="datasets")
        hub.add_commit("owner/private", {"train.jsonl": write_lines([{"text": "p"}])}, kind="datasets", token="t")
        hub.add_commit("owner/broken", {"train.jsonl": b"{no json"}, kind="datasets")
        hub.add_commit("owner/pictures", {"notes.bin": b"x"}, kind="datasets")
        asked: dict[str, tuple[str, dict]] = {
            "first two": ("owner/rows", {"revision": first, "max_rows": 2}),
            "newest": ("owner/rows", {}),
            "staged": ("owner/rows", {"stage": {"max_rows": 1}}),
            "subset": ("owner/two:b", {}),
            "no subset": ("owner/two", {}),
            "no train split": ("owner/tests", {}),
            "absent": ("owner/absent", {}),
            "private": ("owner/private", {}),
            "private with token": ("owner/private", {"token": "t"}),
            "no such revision": ("owner/rows", {"revision": "v9"}),
            "broken": ("owner/broken", {}),
            "no data": ("owner/pictures", {}),
            "no name": ("a/b/c", {}),
        }
        answers = run_fetches(hub.url, folder, asked)
    return answers | run_fetches("http://127.0.0.1:9", folder, {"no hub": ("owner/rows", {})})


@pytest.mark.parametrize(
    ("fetch", "texts"),
    [
        pytest.param("first two", ["row 0", "row 1"], id="no more than asked for, at the commit asked for"),
        pytest.param("newest", ["newer"], id="main when no revision is given"),
        pytest.param("staged", ["newer"], id="as a job stages it"),
        pytest.param("subset", ["b"], id="the subset after the colon"),
        pytest.param("private with token", ["p"], id="a private one with its token"),
    ],
)
def test_the_first_rows_of_the_training_split_lie_in_a_file(fetched: Fetches, fetch: str, texts: list[str]) -> None:
    assert [row["text"] for row in fetched[fetch]["rows"]] == texts
    assert fetched[fetch]["path"].endswith(".jsonl")


@pytest.mark.parametrize(
    ("fetch", "words"),
    [
        pytest.param("no subset", "Please pick one among", id="several subsets and none named"),
        pytest.param("no train split", "train", id="no training split"),
        pytest.param("absent", "neither a file here nor a data set on the Hub", id="no such data set"),
        pytest.param("private", "token given", id="a private one without a token"),
        pytest.param("no such revision", "no revision 'v9'", id="no such revision"),
        pytest.param("broken", "owner/broken", id="a file that is no JSON"),
        pytest.param("no data", "owner/pictures", id="no file of a known kind"),
        pytest.param("no name", "a/b/c", id="no name of a data set"),
    ],
)
def test_what_cannot_be_read_is_an_error_that_names_the_option(fetched: Fetches, fetch: str, words: str) -> None:
    error = fetched[fetch]
    assert (error["kind"], error["param"], error["retryable"]) == ("StepInputError", "quantization_dataset_id", False)
    assert words in error["message"]


def test_a_hub_that_does_not_answer_may_answer_later(fetched: Fetches) -> None:
    error = fetched["no hub"]
    assert (error["kind"], error["param"], error["retryable"]) == ("NetworkError", "quantization_dataset_id", True)


def test_a_jobs_step_gets_the_staged_file_in_place_of_the_name(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("{}\n")
    workspace = Workspace(tmp_path / "workspace")
    workspace.root.mkdir()
    write_staged_record(workspace, StagedInputs(calibration=str(rows)))
    staged = read_staged_record(workspace)
    assert staged is not None
    spec = JobSpec(job_id="job-1", attempt=1, config={"quantization_dataset_id": "owner/rows"}, steps=(Step.QUANTIZE,))
    config = build_step_config(spec, workspace=workspace, staged=staged, secrets={}, is_preparing=False)
    assert config.quantization_dataset_id == str(rows)
    rows.unlink()
    assert read_staged_record(workspace) is None, "what is gone is staged anew"
