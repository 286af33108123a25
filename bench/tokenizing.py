"""How fast rows become tokens: in the training loop, once in one process, once in several, and read again.

python -m bench.tokenizing --rows 20000                        chat rows, about 2 minutes on two cores, no network
python -m bench.tokenizing --rows 20000 --kind text            plain texts
python -m bench.tokenizing --rows 200000 --processes 16        as many processes as are worth it on a larger host

Rows are made of invented words, with lengths that are log-normal as those of conversations are; the tokenizer is a
byte-level BPE trained on them. Rates count tokens without padding.
"""

import argparse
import importlib.metadata
import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.utils.data import DataLoader, RandomSampler
from transformers import PreTrainedTokenizerFast

from bench.results_file import FOLDER, write_result
from trainer_core.collators import ChatCollator, LMCollator
from trainer_core.collators.token_collator import TokenCollator
from trainer_core.datasets import BaseDataset, ChatDataset, GeneralDataset
from trainer_core.tokenized import LengthGroupedSampler, TokenizedRows, tokenize_rows
from trainer_core.tokenizers.chat_template import set_chat_template

PACKAGES = ("tokenizers", "transformers", "torch", "numpy")
SYLLABLES = [consonant + vowel for consonant in "bcdfghjklmnprstvwz" for vowel in "aeiou"]
BATCH = 8
ACCUMULATION = 4
MAX_LENGTH = 2048
SEED = 42

Figures = dict[str, float | int]


def main() -> None:
    """Prints and writes the figures."""
    options = parse_options()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw = random.Random(SEED)
        words = ["".join(draw.choices(SYLLABLES, k=draw.randint(1, 4))) for _ in range(8000)]
        path = write_rows(folder / "rows.jsonl", words, num_rows=options.rows, kind=options.kind)
        dataset, collator = build_parts(path, words, kind=options.kind)
        figures = measure(dataset, collator, options=options, folder=folder)
        num_bytes = path.stat().st_size
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    setup = f"{options.rows} rows of {options.kind}, {num_bytes} bytes, batches of {BATCH}, max_length {MAX_LENGTH}"
    print(json.dumps(figures, indent=2))
    print(write_result("tokenizing", {"versions": versions, "figures": figures}, setup=setup, folder=options.out))


def parse_options() -> argparse.Namespace:
    """What to measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--kind", choices=("chat", "text"), default="chat")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)), help="of the run in several")
    parser.add_argument("--loop-rows", type=int, default=4000, help="rows of the measurements in the loop")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the result")
    return parser.parse_args()


def measure(
    dataset: BaseDataset, collator: TokenCollator, *, options: argparse.Namespace, folder: Path
) -> dict[str, Figures | float]:
    """Each way once, in this order; the rows are in the page cache from the start."""
    seconds, rows = clock(lambda: tokenize_rows(dataset, collator, folder=folder / "one", num_processes=1))
    rate = count_rate(seconds, num_rows=len(rows), num_tokens=rows.num_tokens)
    figures: dict[str, Figures | float] = {"once_in_one_process": rate}
    several, _ = clock(
        lambda: tokenize_rows(dataset, collator, folder=folder / "several", num_processes=options.processes)
    )
    rate = count_rate(several, num_rows=len(rows), num_tokens=rows.num_tokens)
    figures["once_in_several_processes"] = {"processes": options.processes, **rate}
    opening, again = clock(lambda: tokenize_rows(dataset, collator, folder=folder / "one"))
    if not again.was_cached:
        raise AssertionError("the second run is to find the first one's entry")
    figures["found_again_seconds"] = round(opening, 3)
    for name, num_workers in (("on_the_fly", 0), ("on_the_fly_in_2_loader_processes", 2)):
        figures[name] = measure_loop(dataset, collator, num_rows=options.loop_rows, num_workers=num_workers)
    figures["read_from_the_map"] = measure_loop(rows, collator.pad, num_rows=len(rows), num_workers=0)
    figures["read_from_the_map_by_length"] = measure_loop(
        rows, collator.pad, num_rows=len(rows), num_workers=0, sampler=build_length_sampler(rows)
    )
    return figures


def measure_loop(
    samples: Any, collate: Callable[..., Any], *, num_rows: int, num_workers: int, sampler: Any = None
) -> Figures:
    """Batches as a training loop gets them, with nothing done to them; the loader's start is not counted."""
    sampler = sampler or RandomSampler(range(num_rows))
    loader = DataLoader(samples, batch_size=BATCH, collate_fn=collate, sampler=sampler, num_workers=num_workers)
    batches = iter(loader)
    next(batches)
    started = time.perf_counter()
    num_batches, num_tokens, num_places = count(batches)
    seconds = time.perf_counter() - started
    rate = count_rate(seconds, num_rows=num_batches * BATCH, num_tokens=num_tokens)
    return {**rate, "padding_percent": round(100 * (1 - num_tokens / num_places), 1)}


def count(batches: Iterable[Any]) -> tuple[int, int, int]:
    """Batches, tokens that are no padding, and places for tokens."""
    num_batches = num_tokens = num_places = 0
    for batch in batches:
        num_batches += 1
        num_tokens += int(batch["attention_mask"].sum())
        num_places += batch["attention_mask"].numel()
    return num_batches, num_tokens, num_places


def count_rate(seconds: float, *, num_rows: int, num_tokens: int) -> Figures:
    """Per second, and how long it took."""
    return {
        "seconds": round(seconds, 2),
        "rows_per_second": round(num_rows / seconds),
        "tokens_per_second": round(num_tokens / seconds),
    }


def clock(act: Callable[[], TokenizedRows]) -> tuple[float, TokenizedRows]:
    """How many seconds it took, and what it gave."""
    started = time.perf_counter()
    result = act()
    return time.perf_counter() - started, result


def build_length_sampler(rows: TokenizedRows) -> LengthGroupedSampler:
    """As a run without packing samples."""
    return LengthGroupedSampler(rows.lengths, step_size=BATCH * ACCUMULATION, seed=SEED)


def build_parts(path: Path, words: list[str], *, kind: str) -> tuple[BaseDataset, TokenCollator]:
    """Data set and collator of this kind of rows."""
    tokenizer = build_tokenizer(words)
    if kind == "text":
        return GeneralDataset.load(str(path)), LMCollator(tokenizer, MAX_LENGTH)
    set_chat_template(tokenizer, "chatml")
    return ChatDataset.load(str(path)), ChatCollator(tokenizer, MAX_LENGTH)


def build_tokenizer(words: list[str]) -> Any:
    """A byte-level BPE with ChatML's marks."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    draw = random.Random(SEED)
    texts = (" ".join(draw.choices(words, k=20)) for _ in range(5000))
    trainer = trainers.BpeTrainer(vocab_size=8000, special_tokens=specials, show_progress=False)
    backend.train_from_iterator(texts, trainer)
    tokenizer: Any = PreTrainedTokenizerFast
    return tokenizer(tokenizer_object=backend, eos_token="<|endoftext|>", pad_token="<|endoftext|>")


def write_rows(path: Path, words: list[str], *, num_rows: int, kind: str) -> Path:
    """A file of rows, always the same for the same numbers."""
    draw = random.Random(SEED)
    with path.open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in iterate_rows(draw, words, num_rows=num_rows, kind=kind))
    return path


def iterate_rows(draw: random.Random, words: list[str], *, num_rows: int, kind: str) -> Iterator[dict[str, Any]]:
    """Conversations of one to three turns, or texts: the median of a text is 90 words, one in twenty has over 380."""
    for _ in range(num_rows):
        if kind == "text":
            yield {"text": write_text(draw, words)}
            continue
        messages = []
        for _ in range(draw.randint(1, 3)):
            messages.append({"role": "user", "content": write_text(draw, words)})
            messages.append({"role": "assistant", "content": write_text(draw, words)})
        yield {"messages": messages}


def write_text(draw: random.Random, words: list[str]) -> str:
    """Words with a log-normal number of them."""
    return " ".join(draw.choices(words, k=min(3000, max(1, round(draw.lognormvariate(4.5, 0.9))))))


if __name__ == "__main__":
    main()
