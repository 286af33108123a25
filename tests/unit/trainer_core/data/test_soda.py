"""SODA from a local hub, through the real data set library."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from tests.support.fake_hub import FakeHub

SCRIPT = """
import json
from trainer_core.config import Config
from trainer_core.datasets import SodaDataset
train, evaluation = SodaDataset.get_data(Config())
print(json.dumps([list(train), list(evaluation)]))
"""


def build_split(indices: list[int], name: str) -> bytes:
    rows = [
        {
            "original_index": index,
            "narrative": f"{name} {index}",
            "speakers": ["Bob", "Ann"],
            "dialogue": ["Hi", "Hello"],
        }
        for index in indices
    ]
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


@pytest.mark.slow
def test_soda_keeps_each_dialogue_once_across_train_and_test(tmp_path: Path) -> None:
    files = {
        f"{name}.parquet": build_split(indices, name)
        for name, indices in {"train": [1, 2, 2, 3], "valid": [7], "test": [3, 4, 4]}.items()
    }
    with FakeHub() as hub:
        hub.add_commit("allenai/soda", files, kind="datasets")
        clean = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env={
                **clean,
                "HF_ENDPOINT": hub.url,
                "HF_HOME": str(tmp_path),
                "PYTHONPATH": str(Path(__file__).parents[4]),
            },
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 0, done.stderr
    train, evaluation = json.loads(done.stdout.splitlines()[-1])

    assert [row["header"] for row in train] == ["train 1", "train 2", "train 3"]
    assert [row["header"] for row in evaluation] == ["test 4"]
    assert train[0]["dialog"] == ["Bob: Hi", "Ann: Hello"]
