"""Invariants of the collators."""

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.tiny_models import build_tiny_tokenizer
from trainer_core.collators import BaseCollator, CompletionCollator, LMCollator, build_collator, collators_registry
from trainer_core.collators.encoded_sample import EncodedSample, fit_to_length
from trainer_core.collators.sample_error import SampleError
from trainer_core.config import Config, ConfigError
from trainer_core.errors import DataError, UnknownKeyError
from trainer_core.types import Batch, RawSample

TOKENIZERS = {with_bos: build_tiny_tokenizer(with_bos=with_bos) for with_bos in (True, False)}
parts_strategy = st.lists(st.text(max_size=30), min_size=1, max_size=4)
collator_strategy = st.sampled_from([LMCollator, CompletionCollator])


def list_learned_tokens(batch: Batch) -> list[list[tuple[int, ...]]]:
    """For each row each learned token behind all real tokens before it."""
    learned = []
    for ids, mask, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True):
        real = [int(token) for token, is_real in zip(ids, mask, strict=True) if is_real]
        kept = [int(label) for label, is_real in zip(labels, mask, strict=True) if is_real]
        learned.append([tuple(real[: index + 1]) for index, label in enumerate(kept) if label != -100])
    return learned


@given(texts=st.lists(parts_strategy, min_size=1, max_size=3), collator_class=collator_strategy, bos=st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_padding_side_never_changes_what_is_learned(
    texts: list[list[str]], collator_class: type[BaseCollator], bos: bool
) -> None:
    learned = []
    for side in ("left", "right"):
        tokenizer = copy.deepcopy(TOKENIZERS[bos])
        tokenizer.padding_side = side
        try:
            batch = collator_class(tokenizer, 64)([{"text_parts": parts} for parts in texts])
        except SampleError as error:
            learned.append(error.position)
            continue
        assert (batch["labels"][batch["attention_mask"] == 0] == -100).all()
        aligned = batch["labels"] != -100
        assert torch.equal(batch["labels"][aligned], batch["input_ids"][aligned])
        learned.append(list_learned_tokens(batch))

    assert learned[0] == learned[1]


@given(parts=parts_strategy, max_length=st.integers(1, 40), collator_class=collator_strategy, bos=st.booleans())
@settings(max_examples=150, deadline=None)
def test_a_cut_sample_fits_and_still_teaches_or_is_refused(
    parts: list[str], max_length: int, collator_class: type[BaseCollator], bos: bool
) -> None:
    collator = collator_class(TOKENIZERS[bos], max_length)
    try:
        batch = collator([{"text_parts": parts}])
    except SampleError:
        whole = collator_class(TOKENIZERS[bos], 10_000)
        is_teachable = bool(whole.encode_whole([{"text_parts": parts}])[0][0].num_targets)  # type: ignore[attr-defined]
        assert max_length <= 2 or not is_teachable
        return
    assert batch["input_ids"].shape[1] <= max_length
    assert (batch["labels"][:, 1:] != -100).any()


@pytest.mark.parametrize(
    ("num_context", "num_answer", "kept_context", "kept_answer"),
    [
        (100, 3, range(94, 100), range(3)),  # the oldest of a long history goes first
        (2, 100, range(2), range(7)),  # a short question stays, a long answer keeps its start
        (100, 100, range(96, 100), range(5)),  # both long: half each
        (0, 100, range(0), range(9)),  # nothing to keep before the answer
        (3, 3, range(3), range(3)),  # it fits
    ],
)
def test_what_is_cut(num_context: int, num_answer: int, kept_context: range, kept_answer: range) -> None:
    context = [1000 + index for index in range(num_context)]
    answer = [2000 + index for index in range(num_answer)]
    sample = EncodedSample([7, *context, *answer], [False] * (1 + num_context) + [True] * num_answer)

    fitted = fit_to_length(sample, max_length=10, num_leading=1)

    assert fitted.input_ids == [7, *(1000 + index for index in kept_context), *(2000 + index for index in kept_answer)]
    assert fitted.num_cut_tokens == len(sample.input_ids) - len(fitted.input_ids)


@pytest.mark.parametrize("bos", [True, False])
@given(text=st.text(min_size=1, max_size=40))
@settings(max_examples=50, deadline=None)
def test_lm_gives_the_tokens_that_the_tokenizer_gives(text: str, bos: bool) -> None:
    tokenizer = TOKENIZERS[bos]
    (sample, _), *_ = LMCollator(tokenizer, 10_000).encode_whole([{"text_parts": [text]}])

    assert sample.input_ids == tokenizer(text)["input_ids"]


@given(parts=parts_strategy)
@settings(max_examples=50, deadline=None)
def test_completion_gives_each_parts_own_tokens_with_one_bos(parts: list[str]) -> None:
    tokenizer = TOKENIZERS[True]
    (sample, _), *_ = CompletionCollator(tokenizer, 10_000).encode_whole([{"text_parts": parts}])

    apart = [tokenizer(part + "\n")["input_ids"][1:] for part in parts]
    assert sample.input_ids == [tokenizer.bos_token_id, *(token for ids in apart for token in ids)]
    assert sample.is_target == [False] * (1 + sum(map(len, apart[:-1]))) + [True] * len(apart[-1])


def test_a_real_end_of_text_is_learned_where_it_is_the_padding_token(llama_like: Any) -> None:
    batch = LMCollator(llama_like, 32)([{"text_parts": "Hi </s>"}, {"text_parts": "Hi there Bob I am"}])

    eos = llama_like.eos_token_id
    assert eos in batch["labels"][0].tolist()
    assert batch["labels"][0].tolist().count(eos) == 1


@pytest.mark.parametrize(
    ("text_parts", "reason"),
    [
        ([], "is empty"),
        (None, "must be a list of texts, not NoneType"),
        ([{"a": 1}], "holds dict"),
        ([True], "holds bool"),
        ({"a": 1}, "must be a list of texts, not dict"),
    ],
)
@pytest.mark.parametrize("collator_class", [LMCollator, CompletionCollator])
def test_a_sample_without_text_is_named_by_its_place(
    text_parts: Any, reason: str, collator_class: type[BaseCollator]
) -> None:
    collator = collator_class(TOKENIZERS[True], 32)
    with pytest.raises(SampleError, match=reason) as caught:
        collator([{"text_parts": "fine"}, {"text_parts": text_parts}])
    assert caught.value.position == 1


def test_a_sample_with_nothing_to_learn_is_an_error() -> None:
    with pytest.raises(SampleError, match="nothing to learn in its 1 tokens"):
        LMCollator(TOKENIZERS[True], 32)([{"text_parts": ""}])
    with pytest.raises(SampleError, match="max_length is too small"):
        LMCollator(TOKENIZERS[True], 1)([{"text_parts": "hello"}])


def test_a_sample_without_a_must_have_key_is_an_error() -> None:
    with pytest.raises(SampleError, match="LMCollator needs 'text_parts'"):
        LMCollator(TOKENIZERS[True], 32)([{"text": "a"}])


class PairCollator(BaseCollator):
    """As a user of X-LLM writes one: no separator of its own, no extra arguments."""

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        super().__init__(tokenizer, max_length)
        self.must_have_keys.append("pair")

    def parse_batch(self, raw_batch: list[RawSample]) -> Batch:
        return {"input_ids": torch.ones(1, 1)}


def test_a_users_collator_is_built_with_what_its_constructor_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(collators_registry._values, "pair", PairCollator)

    collator = build_collator(Config(collator_key="pair", max_length=7), TOKENIZERS[True])

    assert collator.max_length == 7
    with pytest.raises(SampleError, match="PairCollator needs 'pair'"):
        collator([{"text_parts": "a"}])
    with pytest.raises(DataError, match="PairCollator made a batch without 'attention_mask', 'labels'"):
        collator([{"pair": "a"}])


@pytest.mark.parametrize(
    ("keys", "param"),
    [
        ({"collator_key": "pair", "collator_separator": " "}, "collator_separator"),
        ({"collator_key": "lm", "collator_prefix_end": ":"}, "collator_prefix_end"),
        ({"collator_key": "chat", "collator_separator": " "}, "collator_separator"),
    ],
)
def test_a_setting_that_means_nothing_to_the_collator_is_refused(
    keys: dict[str, str], param: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(collators_registry._values, "pair", PairCollator)
    with pytest.raises(ConfigError) as caught:
        build_collator(Config(**keys), TOKENIZERS[True])
    assert caught.value.param == param


def test_settings_reach_the_completion_collator() -> None:
    config = Config(collator_key="completion", collator_separator="|", collator_prefix_end=":", max_length=9)
    collator = build_collator(config, TOKENIZERS[True])

    assert isinstance(collator, CompletionCollator)
    assert (collator.separator, collator.prefix_end, collator.max_length) == ("|", ":", 9)


def test_an_unknown_collator_is_named_with_the_nearest() -> None:
    with pytest.raises(UnknownKeyError, match="did you mean 'completion'"):
        build_collator(Config(collator_key="completions"), TOKENIZERS[True])


def test_plain_text_ends_in_an_end_of_text_where_the_tokenizer_or_the_text_says_so(bpe_tokenizer: Any) -> None:
    collator = LMCollator(bpe_tokenizer, 64)
    plain, ended = (collator([{"text_parts": [text]}])["labels"][0].tolist() for text in ("a cat", "a cat</s>"))
    assert bpe_tokenizer.decode(plain[1:]) == "a cat"
    assert plain[0] == -100
    assert ended[-1] == bpe_tokenizer.eos_token_id
