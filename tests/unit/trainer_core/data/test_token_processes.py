"""Tokenising in several processes: the same samples in the same order, and nothing left of it."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest

from tests.support.tiny_models import build_tiny_tokenizer
from trainer_core.collators import LMCollator
from trainer_core.collators.sample_error import SampleError
from trainer_core.datasets import GeneralDataset
from trainer_core.errors import HostMemoryError, StepInterrupted
from trainer_core.tokenized import TokenizedRows, tokenize_rows
from trainer_core.tokenized.entry import INPUT_IDS, IS_TARGET, OFFSETS
from trainer_core.tokenized.row_encoding import choose_num_processes
from trainer_core.types import RawSample

TOKENIZER = build_tiny_tokenizer()
ROWS: list[RawSample] = [{"text": f"row {index} " * (index % 9 + 1)} for index in range(700)]


def read_bytes(rows: TokenizedRows) -> list[bytes]:
    return [(rows.folder / name).read_bytes() for name in (INPUT_IDS, IS_TARGET, OFFSETS)]


def list_children() -> set[int]:
    """Processes that this one started and that have not ended."""
    children = set()
    for task in Path("/proc/self/task").iterdir():
        children |= {int(pid) for pid in (task / "children").read_text().split()}
    return children


def tokenize_here(dataset: GeneralDataset, folder: Path) -> TokenizedRows:
    return tokenize_rows(dataset, LMCollator(TOKENIZER, 64), folder=folder, num_processes=1)


def test_several_processes_give_what_one_gives(write_jsonl: Callable[..., Path], tmp_path: Path) -> None:
    dataset = GeneralDataset.load(str(write_jsonl(ROWS)))
    children = list_children()
    told: list[int] = []
    rows = tokenize_rows(
        dataset, LMCollator(TOKENIZER, 64), folder=tmp_path / "several", num_processes=2, on_progress=told.append
    )

    assert read_bytes(rows) == read_bytes(tokenize_here(dataset, tmp_path / "one"))
    assert told[:2] == [64, 128]
    assert told[-1] == 700
    assert list_children() == children


@pytest.mark.slow
@pytest.mark.parametrize("in_memory", [False, True])
def test_samples_are_sent_where_the_data_set_is_not(
    in_memory: bool, write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    class Local(GeneralDataset):
        """Does not pickle."""

        gives_same_samples: ClassVar[bool] = True
        keeps_rows_on_disk: ClassVar[bool] = True

    dataset = GeneralDataset(ROWS) if in_memory else Local.load(str(write_jsonl(ROWS)))
    rows = tokenize_rows(dataset, LMCollator(TOKENIZER, 64), folder=tmp_path / "several", num_processes=2)

    assert read_bytes(rows) == read_bytes(tokenize_here(dataset, tmp_path / "one"))


@pytest.mark.slow
def test_what_no_other_process_can_import_is_tokenised_here(
    write_jsonl: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source = tmp_path / "only_here.py"
    source.write_text(BLOCKING_DATASET)
    spec = importlib.util.spec_from_file_location("only_here", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "only_here", module)
    spec.loader.exec_module(module)
    dataset = module.BlockingDataset.load(str(write_jsonl(ROWS)))

    with caplog.at_level("INFO"):
        rows = tokenize_rows(dataset, LMCollator(TOKENIZER, 64), folder=tmp_path / "several", num_processes=2)

    assert read_bytes(rows) == read_bytes(tokenize_here(dataset, tmp_path / "one"))
    assert "tokenises in this process: ModuleNotFoundError" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("in_memory", [False, True])
def test_a_bad_row_is_told_as_one_process_tells_it(
    in_memory: bool, write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    rows = [*ROWS[:500], {"text": ""}, *ROWS[500:]]
    path = write_jsonl(rows)
    dataset = GeneralDataset(rows) if in_memory else GeneralDataset.load(str(path))
    told = []
    for num_processes in (1, 2):
        with pytest.raises(SampleError) as raised:
            tokenize_rows(dataset, LMCollator(TOKENIZER, 64), folder=tmp_path / "cache", num_processes=num_processes)
        told.append((raised.value.message, raised.value.position, raised.value.is_without_target))

    place = "row 500" if in_memory else "rows.jsonl line 501"
    assert told == [(f"{place}: there is nothing to learn in its 1 tokens", 500, True)] * 2


BLOCKING_DATASET = """
from typing import ClassVar
from trainer_core.datasets import GeneralDataset

class BlockingDataset(GeneralDataset):
    keeps_rows_on_disk: ClassVar[bool] = True
    gives_same_samples: ClassVar[bool] = True

    def get_sample(self, index):
        row = self.data[index]
        if "started" in row:
            # Says that it is here, then waits for ever: nobody writes.
            open(row["started"], "w").close()
            open(row["blocked"]).read()
        return {"text_parts": [row["text"]]}
"""


@pytest.fixture
def blocking_rows(tmp_path: Path, write_jsonl: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file whose row 400 never becomes a sample; its class is in a module that any process can import."""
    (tmp_path / "blocking_dataset.py").write_text(BLOCKING_DATASET)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("started", "blocked"):
        os.mkfifo(tmp_path / name)
    blocked = {"text": "x", "started": str(tmp_path / "started"), "blocked": str(tmp_path / "blocked")}
    return write_jsonl([*ROWS[:400], blocked, *ROWS[400:]])


def wait_for_start(path: Path) -> None:
    """Returns when the row that blocks was reached."""
    with (path.parent / "started").open() as started:
        assert started.read() == ""


@pytest.mark.slow
def test_a_stop_is_obeyed_within_a_second_whatever_the_processes_do(blocking_rows: Path, tmp_path: Path) -> None:
    from blocking_dataset import BlockingDataset  # type: ignore[import-not-found]

    stop = threading.Event()
    asked_at: list[float] = []

    def ask() -> None:
        wait_for_start(blocking_rows)
        asked_at.append(time.monotonic())
        stop.set()

    children = list_children()
    asking = threading.Thread(target=ask)
    asking.start()
    with pytest.raises(StepInterrupted):
        tokenize_rows(
            BlockingDataset.load(str(blocking_rows)),
            LMCollator(TOKENIZER, 64),
            folder=tmp_path / "cache",
            num_processes=2,
            should_stop=stop.is_set,
        )
    seconds = time.monotonic() - asked_at[0]
    asking.join()

    assert seconds < 1
    assert list_children() == children
    assert [path.name for path in (tmp_path / "cache").iterdir() if not path.name.endswith(".lock")] == []


@pytest.mark.slow
def test_a_process_that_is_killed_ends_it_with_a_reason(blocking_rows: Path, tmp_path: Path) -> None:
    from blocking_dataset import BlockingDataset

    others = list_children()

    def kill() -> None:
        wait_for_start(blocking_rows)
        for pid in list_children() - others:
            os.kill(pid, signal.SIGKILL)

    killing = threading.Thread(target=kill)
    killing.start()
    with pytest.raises(HostMemoryError, match="was killed"):
        tokenize_rows(
            BlockingDataset.load(str(blocking_rows)),
            LMCollator(TOKENIZER, 64),
            folder=tmp_path / "cache",
            num_processes=2,
        )
    killing.join()


SCRIPT = """
import sys
from pathlib import Path
from blocking_dataset import BlockingDataset
from tests.support.tiny_models import build_tiny_tokenizer
from trainer_core.collators import LMCollator
from trainer_core.tokenized import tokenize_rows

# Without a guard: a process that ran the script once more would say so once more.
print("started", flush=True)
dataset = BlockingDataset.load(sys.argv[1])
collator = LMCollator(build_tiny_tokenizer(), 64)
tokenize_rows(dataset, collator, folder=Path(sys.argv[2]), num_processes=2)
"""


@pytest.mark.slow
def test_a_kill_leaves_a_partial_folder_that_the_next_run_removes(blocking_rows: Path, tmp_path: Path) -> None:
    script, cache = tmp_path / "script.py", tmp_path / "cache"
    script.write_text(SCRIPT)
    folders = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[4])])
    with subprocess.Popen(
        [sys.executable, str(script), str(blocking_rows), str(cache)],
        env={**os.environ, "PYTHONPATH": folders},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        wait_for_start(blocking_rows)
        (children,) = [
            path.read_text().split() for path in Path(f"/proc/{process.pid}/task/{process.pid}").glob("children")
        ]
        process.kill()
        output = process.communicate()[0]
    assert output == "started\n"
    assert [path.name.endswith(".partial") for path in cache.iterdir() if not path.name.endswith(".lock")] == [True]
    # The pipe to the row that blocks has a writer and then none: the process that read it sees that it is alone.
    (blocking_rows.parent / "blocked").open("w").close()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in children):
        assert time.monotonic() < deadline
        os.sched_yield()

    rows = tokenize_here(GeneralDataset([{"text": json.dumps(children)}]), cache)

    assert [path.name for path in cache.iterdir() if not path.name.endswith(".lock")] == [rows.folder.name]


@pytest.mark.parametrize(
    ("seconds", "num_done", "num_rows", "expected"),
    [
        (1.0, 100, 1_000_000, [1]),  # too soon to say
        (2.0, 1000, 5000, [1]),  # 8 s are left: starting would take as long
        (2.0, 1000, 1_000_000, range(1, 17)),  # half an hour: as many as there are cores
        (2.0, 1000, 1000, [1]),  # done
    ],
)
def test_processes_are_started_where_they_pay(
    seconds: float, num_done: int, num_rows: int, expected: list[int] | range
) -> None:
    chosen = choose_num_processes(seconds=seconds, num_done=num_done, num_rows=num_rows)

    assert chosen in expected
    if isinstance(expected, range):
        assert chosen == min(len(os.sched_getaffinity(0)), 16)
