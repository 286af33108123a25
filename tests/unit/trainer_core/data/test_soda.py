"""SODA from a local hub, through the real data set library."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.fake_hub import FakeHub, Fault
from tests.support.soda_rows import build_soda_files

SCRIPT = """
import json
from trainer_core.config import Config
from trainer_core.datasets import SodaDataset
train, evaluation = SodaDataset.get_data(Config())
print(json.dumps([list(train), list(evaluation)]))
"""
REFUSED = """
import json
from trainer_core.datasets import hub_revision
from trainer_core.errors import TrainerError
# How long it pauses between tries does not matter here.
hub_revision._PAUSES_SECONDS = (0.01, 0.01)
answers = []
for name in ("acme/none", "acme/forbidden", "acme/gone", "acme/busy", "acme/ill"):
    try:
        hub_revision.pin_revision(name, token=None)
    except TrainerError as error:
        answers.append([error.code, error.param, error.message])
print(json.dumps(answers))
"""


def run_python(code: str, *, endpoint: str, home: Path) -> str:
    """Runs code in a process that knows only this hub."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    own = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "PYTHONPATH": str(Path(__file__).parents[4])}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**clean, **own}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_soda_keeps_each_dialogue_once_across_train_and_test(tmp_path: Path) -> None:
    files = build_soda_files(train=[1, 2, 2, 3], valid=[7], test=[3, 4, 4])
    with FakeHub() as hub:
        hub.add_commit("allenai/soda", files, kind="datasets")
        train, evaluation = json.loads(run_python(SCRIPT, endpoint=hub.url, home=tmp_path))

    assert [row["header"] for row in train] == ["train 1", "train 2", "train 3"]
    assert [row["header"] for row in evaluation] == ["test 4"]
    assert train[0]["dialog"] == ["Bob: Hi", "Ann: Hello"]


def test_a_hub_that_refuses_or_is_ill_is_told_by_name(tmp_path: Path) -> None:
    with FakeHub() as hub:
        for name, status in (("forbidden", 403), ("gone", 404), ("busy", 429), ("ill", 503)):
            hub.inject(Fault(f"acme/{name}", status=status, times=9))
        answers = json.loads(run_python(REFUSED, endpoint=hub.url, home=tmp_path))

    assert [answer[:2] for answer in answers] == [
        ["invalid_data", "dataset_key"],
        ["invalid_data", "dataset_key"],
        ["invalid_data", "dataset_key"],
        ["network", "dataset_key"],
        ["network", "dataset_key"],
    ]
    for (_, _, message), words in zip(answers, ("huggingface_hub_token", "403", "404", "429", "503"), strict=True):
        assert words in message
