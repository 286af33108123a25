"""The cache of tokenised samples: what is found again, what is not, and what is removed."""

import copy
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.support.tiny_models import CHAT_TEMPLATE, build_tiny_tokenizer
from trainer_core.collators import ChatCollator, CompletionCollator, LMCollator
from trainer_core.datasets import ChatDataset, GeneralDataset, SodaDataset
from trainer_core.errors import StepInterrupted
from trainer_core.tokenized import TokenizedRows, find_token_cache, prune_token_cache, tokenize_rows, tokenizing
from trainer_core.tokenized.content_key import compute_content_key
from trainer_core.tokenized.entry import FACTS, INPUT_IDS, IS_TARGET, OFFSETS
from trainer_core.tokenized.key_lock import try_lock
from trainer_core.types import RawSample

TOKENIZER = build_tiny_tokenizer()
NUM_ROWS = 100


class CountingDataset(GeneralDataset):
    """Knows how often it was asked."""

    gives_same_samples: ClassVar[bool] = True
    calls: ClassVar[list[int]] = []

    def get_sample(self, index: int) -> RawSample:
        self.calls.append(index)
        return super().get_sample(index)


class ForgetfulDataset(GeneralDataset):
    """Depends on what it does not tell."""

    gives_same_samples: ClassVar[bool] = True
    prefix: ClassVar[str] = ""

    def get_sample(self, index: int) -> RawSample:
        return {"text_parts": [self.prefix + self.data[index]["text"]]}


@pytest.fixture
def dataset() -> CountingDataset:
    CountingDataset.calls.clear()
    return CountingDataset([{"text": f"row number {index}"} for index in range(NUM_ROWS)])


def build_collator() -> LMCollator:
    return LMCollator(copy.deepcopy(TOKENIZER), 32)


def list_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def read_all(rows: TokenizedRows) -> list[list[int]]:
    return [rows[index].input_ids.tolist() for index in range(len(rows))]


def test_what_was_tokenised_is_found_again_and_only_some_rows_are_compared(
    dataset: CountingDataset, tmp_path: Path
) -> None:
    told: list[int] = []
    first = tokenize_rows(dataset, build_collator(), folder=tmp_path, num_processes=1, on_progress=told.append)
    num_first = len(dataset.calls)
    second = tokenize_rows(dataset, build_collator(), folder=tmp_path, num_processes=1)

    assert (first.was_cached, second.was_cached) == (False, True)
    assert num_first == NUM_ROWS
    assert len(dataset.calls) - num_first == tokenizing.NUM_ROWS_COMPARED
    assert read_all(first) == read_all(second)
    assert told == sorted(told)
    assert told[-1] == NUM_ROWS
    assert list_names(tmp_path) == [first.folder.name]


def test_the_key_holds_what_tokens_depend_on_and_nothing_else(write_jsonl: Callable[..., Path]) -> None:
    rows = [{"text_parts": ["Hi", "there"], "header": "a", "dialog": ["b"]}]

    def make_key(dataset: Any = None, date: str | None = None, path: Path | None = None, **settings: Any) -> str:
        dataset = dataset or GeneralDataset.load(str(path or write_jsonl(rows)))
        collator = settings.pop("collator", LMCollator)(copy.deepcopy(TOKENIZER), **{"max_length": 32, **settings})
        return compute_content_key(dataset, collator, date=date)

    def with_tokenizer(change: Callable[[Any], object]) -> str:
        tokenizer = copy.deepcopy(TOKENIZER)
        change(tokenizer)
        return compute_content_key(GeneralDataset.load(str(write_jsonl(rows))), LMCollator(tokenizer, 32), date=None)

    base = make_key()
    same = {
        "the same again": make_key(),
        "the file lies elsewhere": make_key(path=write_jsonl(rows, "elsewhere.jsonl")),
        "the padding side": with_tokenizer(lambda tokenizer: setattr(tokenizer, "padding_side", "left")),
        "how a caller padded": with_tokenizer(lambda tokenizer: tokenizer("a", padding="max_length", max_length=9)),
        "how a caller cut": with_tokenizer(lambda tokenizer: tokenizer("a", truncation=True, max_length=9)),
    }
    others = {
        "max_length": make_key(max_length=31),
        "the separator": make_key(separator=" "),
        "the collator": make_key(collator=CompletionCollator),
        "prefix_end": make_key(collator=CompletionCollator, prefix_end=":"),
        "one byte of the data": make_key(path=write_jsonl([{"text_parts": ["Hi", "there!"]}], "other.jsonl")),
        "the field": make_key(GeneralDataset.load(str(write_jsonl(rows)), sample_field="header")),
        "the data set": make_key(SodaDataset.load(str(write_jsonl(rows)))),
        "its seed": make_key(SodaDataset.load(str(write_jsonl(rows)), seed=7)),
        "rows in memory": make_key(GeneralDataset(rows)),
        "other rows in memory": make_key(GeneralDataset([*rows, *rows])),
        "the day": make_key(date="2026-01-01"),
        "the next day": make_key(date="2026-01-02"),
        "an added token": with_tokenizer(lambda tokenizer: tokenizer.add_tokens(["there"])),
        "a special token": with_tokenizer(lambda tokenizer: setattr(tokenizer, "eos_token", "<pad>")),
        "the template": with_tokenizer(lambda tokenizer: setattr(tokenizer, "chat_template", "{{ messages }}")),
    }
    assert {name for name, key in same.items() if key != base} == set()
    assert len({base, *others.values()}) == 1 + len(others)


def test_a_template_that_tells_the_date_is_rendered_anew_each_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock:
        """Stands where the calendar is asked: no test waits for midnight."""

        day = "2026-01-01"

        @classmethod
        def today(cls) -> "Clock":
            return cls()

        def isoformat(self) -> str:
            return self.day

    monkeypatch.setattr(tokenizing, "date", Clock)
    tokenizer = build_tiny_tokenizer(chat_template="{{ strftime_now('%d %b %Y') }}" + CHAT_TEMPLATE)
    rows = [{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]}]

    def is_cached(collator: Any, dataset: Any) -> bool:
        return tokenize_rows(dataset, collator, folder=tmp_path, num_processes=1).was_cached

    chat, lm = ChatCollator(tokenizer, 64), LMCollator(tokenizer, 64)
    assert not is_cached(chat, ChatDataset(rows))
    assert is_cached(chat, ChatDataset(rows))
    assert not is_cached(lm, GeneralDataset([{"text": "Hi"}]))
    Clock.day = "2026-01-02"
    assert not is_cached(chat, ChatDataset(rows))
    # Texts are not rendered, whatever template their tokenizer has.
    assert is_cached(lm, GeneralDataset([{"text": "Hi"}]))


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def change_facts(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda entry: os.truncate(entry / INPUT_IDS, 40), id="a file was cut"),
        pytest.param(lambda entry: flip_a_byte(entry / INPUT_IDS), id="a token is another"),
        pytest.param(lambda entry: flip_a_byte(entry / IS_TARGET), id="a target is none"),
        pytest.param(lambda entry: flip_a_byte(entry / OFFSETS), id="a row begins elsewhere"),
        pytest.param(lambda entry: (entry / OFFSETS).unlink(), id="a file is missing"),
        pytest.param(lambda entry: (entry / FACTS).unlink(), id="the facts are missing"),
        pytest.param(lambda entry: (entry / FACTS).write_text("{"), id="the facts are no JSON"),
        pytest.param(lambda entry: (entry / FACTS).write_text("[]"), id="the facts are no facts"),
        pytest.param(lambda entry: change_facts(entry / FACTS, num_rows=NUM_ROWS - 1), id="the facts do not fit"),
    ],
)
def test_a_damaged_entry_is_made_anew(
    damage: Callable[[Path], object], dataset: CountingDataset, tmp_path: Path
) -> None:
    rows = tokenize_rows(dataset, build_collator(), folder=tmp_path, num_processes=1)
    entry, expected = rows.folder, read_all(rows)
    del rows
    damage(entry)

    again = tokenize_rows(dataset, build_collator(), folder=tmp_path, num_processes=1)

    assert not again.was_cached
    assert read_all(again) == expected
    assert tokenize_rows(dataset, build_collator(), folder=tmp_path, num_processes=1).was_cached
    assert list_names(tmp_path) == [entry.name]


def test_a_damaged_entry_that_is_being_read_is_left_alone(
    dataset: CountingDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # How long a reader is waited for does not matter here.
    monkeypatch.setattr(tokenizing, "SECONDS_UNTIL_A_KEY_OF_ITS_OWN", 0.0)
    reading = tokenize_rows(dataset, build_collator(), folder=tmp_path, num_processes=1)
    expected = read_all(reading)
    flip_a_byte(reading.folder / INPUT_IDS)

    again = tokenize_rows(dataset, build_collator(), folder=tmp_path, num_processes=1)

    assert read_all(again) == expected
    assert again.folder != reading.folder


def test_samples_that_depend_on_what_no_key_knows_are_found_out(tmp_path: Path) -> None:
    dataset = ForgetfulDataset([{"text": "Hi"}, {"text": "there"}])
    before = read_all(tokenize_rows(dataset, build_collator(), folder=tmp_path, num_processes=1))
    try:
        ForgetfulDataset.prefix = "say "
        after = tokenize_rows(dataset, build_collator(), folder=tmp_path, num_processes=1)
        expected = build_collator().encode([dataset[0], dataset[1]])
    finally:
        ForgetfulDataset.prefix = ""

    assert not after.was_cached
    assert read_all(after) == [sample.input_ids for sample in expected] != before


def test_of_several_that_ask_at_once_one_makes_it(dataset: CountingDataset, tmp_path: Path) -> None:
    found: list[TokenizedRows] = []
    collators = [build_collator() for _ in range(4)]
    start = threading.Barrier(4)

    def tokenize(collator: LMCollator) -> None:
        start.wait()
        found.append(tokenize_rows(dataset, collator, folder=tmp_path, num_processes=1))

    threads = [threading.Thread(target=tokenize, args=(collator,)) for collator in collators]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(rows.was_cached for rows in found) == [False, True, True, True]
    assert len(dataset.calls) == NUM_ROWS + 3 * tokenizing.NUM_ROWS_COMPARED
    assert all(read_all(rows) == read_all(found[0]) for rows in found)


def test_a_stop_is_obeyed_at_the_next_chunk_and_leaves_nothing(dataset: CountingDataset, tmp_path: Path) -> None:
    told: list[int] = []

    with pytest.raises(StepInterrupted):
        tokenize_rows(
            dataset,
            build_collator(),
            folder=tmp_path,
            num_processes=1,
            on_progress=told.append,
            should_stop=lambda: len(told) == 2,
        )

    assert len(told) == 2
    assert list_names(tmp_path) == []


def test_who_waits_for_another_to_make_it_can_be_stopped(dataset: CountingDataset, tmp_path: Path) -> None:
    collator = build_collator()
    entry = tmp_path / compute_content_key(dataset, collator, date=None)
    asked: list[bool] = []

    def should_stop() -> bool:
        asked.append(True)
        return len(asked) > 2

    writing = try_lock(entry, shared=False)
    assert writing is not None
    with writing, pytest.raises(StepInterrupted):
        tokenize_rows(dataset, collator, folder=tmp_path, num_processes=1, should_stop=should_stop)


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(
    dataset: CountingDataset, tmp_path: Path
) -> None:
    for name in (".dead.partial", ".alive.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / INPUT_IDS).write_bytes(b"1234")
    same = tmp_path / f".{compute_content_key(dataset, build_collator(), date=None)}.partial"
    same.mkdir()
    writing = try_lock(tmp_path / "alive", shared=False)
    assert writing is not None
    with writing:
        rows = tokenize_rows(dataset, build_collator(), folder=tmp_path, num_processes=1)

    assert list_names(tmp_path) == sorted([".alive.partial", rows.folder.name])
    assert not (tmp_path / ".dead.lock").exists()


def test_beyond_the_limit_what_was_used_least_recently_goes_unless_it_is_read(tmp_path: Path) -> None:
    kept = [
        tokenize_rows(
            GeneralDataset([{"text": f"row {index} of file {number}"} for index in range(20)]),
            build_collator(),
            folder=tmp_path,
            num_processes=1,
        )
        for number in range(4)
    ]
    folders = [rows.folder for rows in kept]
    num_bytes = sum(path.stat().st_size for path in folders[0].iterdir())
    for age, folder in enumerate(folders):
        os.utime(folder / FACTS, (1000 + age, 1000 + age))
    read = kept.pop(1)
    kept.clear()

    # Room for two: the first goes for its age, the second is read, so the third goes.
    removed = prune_token_cache(tmp_path, max_bytes=2 * num_bytes + num_bytes // 2)

    assert list_names(tmp_path) == sorted([folders[1].name, folders[3].name])
    assert removed == pytest.approx(2 * num_bytes, rel=0.05)
    assert read_all(read)
    # Nor are locks of nothing left.
    assert len([path for path in tmp_path.iterdir() if path.name.endswith(".lock")]) == 2


def test_the_cache_lies_with_the_users_other_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/srv/owner/home/.cache")
    assert find_token_cache() == Path("/srv/owner/home/.cache/finesmith/tokens")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/bob")
    assert find_token_cache() == Path("/home/bob/.cache/finesmith/tokens")


def test_nothing_of_the_cache_is_for_other_users(dataset: CountingDataset, tmp_path: Path) -> None:
    rows = tokenize_rows(dataset, build_collator(), folder=tmp_path / "cache" / "tokens", num_processes=1)

    assert (tmp_path / "cache" / "tokens").stat().st_mode & 0o077 == 0
    assert rows.folder.stat().st_mode & 0o077 == 0
