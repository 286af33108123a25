"""Whether a model is exact on rows: read from its settings, then proven on the model itself."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig

from trainer_core.padding_free.attention import BoundaryError, RowAttention, record_windows
from trainer_core.padding_free.rows import Row, RowShape, build_row

_FULL = "full_attention"
_SLIDING = "sliding_attention"
_DROPOUTS = ("attention_dropout", "attn_pdrop", "attn_dropout", "attention_probs_dropout_prob")
_LENGTHS = (19, 13)
_TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 0.05, torch.float16: 0.05}
"""Largest mean difference of two ways' losses of the tokens, in nats: several times what changing the order of the
additions makes, and a fraction of what a neighbour's tokens do."""

_ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 0.01, torch.float16: 0.002}
"""Largest difference of logits, as a share of the largest one."""


@dataclass(frozen=True, slots=True)
class _Sample:
    input_ids: list[int]

    @property
    def is_target(self) -> list[bool]:
        return [True] * len(self.input_ids)


def find_unexact_layers(settings: Any) -> str | None:
    """What a model's settings say against rows, None: nothing.

    A layer that carries a state from token to token would carry it from sample to sample.
    """
    text_settings = settings.get_text_config()
    kinds = set(getattr(text_settings, "layer_types", None) or ()) - {_FULL, _SLIDING}
    if kinds:
        return f"its layers are of the kind {', '.join(sorted(map(str, kinds)))}"
    if any(getattr(text_settings, name, None) for name in _DROPOUTS):
        return "its attention drops weights at random"
    if getattr(text_settings, "alibi", False):
        return "its attention depends on distances that are not handed to it (ALiBi)"
    if getattr(settings, "is_encoder_decoder", False):
        return "it has an encoder"
    if adds_loss_of_passes(settings):
        return "its loss has a part for the balance of its experts, which depends on what shares a pass"
    return None


def adds_loss_of_passes(settings: Any) -> bool:
    """Whether a model adds to the losses of its tokens one that is no sum over samples: that of its routers."""
    text_settings = settings.get_text_config()
    return bool(getattr(text_settings, "output_router_logits", False))


@torch.no_grad()
def find_unexactness(model: Any, *, device: Any) -> str | None:
    """What is against running a model on rows; None: its losses stay the same. The model is left as it is.

    Two short samples are run padded and then in one row; then one of them is changed, which must leave the other's
    numbers as they are to the last bit, or with experts but for rounding: then no gradient may flow from one to the
    other. `device`: where the model lies.
    """
    base = get_base(model)
    samples = build_probe_samples(base.config)
    changed = [_Sample(list(reversed(samples[0].input_ids))), *samples[1:]]
    try:
        row_attention = RowAttention(base)
        with _inference(model):
            expected = _measure_padded(model, samples, device=device)
            with row_attention.active(), record_windows() as windows:
                found, logits_TV = _measure_row(model, samples, device=device)
                _, changed_logits_TV = _measure_row(model, changed, device=device)
    except (BoundaryError, TypeError) as error:
        return str(error)
    if not windows:
        return "its attention is its own, not one of transformers' functions"
    if problem := _check_windows(windows[: len(windows) // 2], base.config.get_text_config()):
        return problem
    first = len(samples[0].input_ids)
    own, after = logits_TV[first:], changed_logits_TV[first:]
    if not torch.equal(own, after):
        is_rounding = has_experts(base.config) and _is_rounding(own, after)
        if not (is_rounding and _is_apart(model, samples, device=device)):
            return "a sample's numbers change with another sample of its row"
    difference = float((found - expected).abs().mean())
    tolerance = _TOLERANCES.get(logits_TV.dtype, _TOLERANCES[torch.float32])
    if not difference <= tolerance:
        return f"the losses of its tokens differ by {difference:.2g} from those of padded samples"
    return None


def has_experts(settings: Any) -> bool:
    """Whether a model chooses among experts: settings of dense ones may name them, too, as 0, 1 or None."""
    text_settings = settings.get_text_config()
    # DBRX names them in a part of its settings, others for each layer.
    parts = [text_settings, *(each for each in vars(text_settings).values() if isinstance(each, PreTrainedConfig))]
    counts = [
        value
        for part in parts
        for name, value in vars(part).items()
        if name.endswith("experts") and "shared" not in name and value
    ]
    return any(max(count if isinstance(count, list | tuple) else [count]) > 1 for count in counts)


def _is_rounding(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether numbers differ as little as products of another height do: so many tokens as chose an expert."""
    difference = (one.float() - other.float()).abs().max() / one.float().abs().max()
    return bool(difference <= _ROUNDING.get(one.dtype, _ROUNDING[torch.float32]))


def _is_apart(model: Any, samples: Sequence[_Sample], *, device: Any) -> bool:
    """Whether the losses of the second sample provably have no gradient at the first one's words.

    However little flows from one sample to another, this is not zero; where nothing does, zeros are added up, which no
    precision rounds. A change of words tells this less well: it is rounded.
    """
    base = get_base(model)
    first = len(samples[0].input_ids)
    try:
        with torch.enable_grad(), _inference(model), RowAttention(base).active(), _record_words(base) as words:
            losses, _ = _measure_row(model, samples, device=device)
            grads = torch.autograd.grad(losses[first - 1 :].sum(), words)
    # Where no gradient can be had, or not in the memory that is left, nothing is proven.
    except RuntimeError:
        return False
    return all(bool(each[:, first:].any()) and not each[:, :first].any() for each in grads)


@contextmanager
def _record_words(base: Any) -> Iterator[list[torch.Tensor]]:
    """Collects what the model looks up for its words within, as the beginnings of what has a gradient."""
    words: list[torch.Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, words_1TD: torch.Tensor) -> torch.Tensor:
        words.append(words_1TD.detach().requires_grad_())
        return words[-1]

    hook = base.get_input_embeddings().register_forward_hook(keep)
    try:
        yield words
    finally:
        hook.remove()


def has_unused_weights(model: Any, *, device: Any) -> bool:
    """Whether a short row leaves a trained weight without a gradient, or a longer one might: one of an expert's.

    The model is left as it is, without gradients. `device`: where it lies.
    """
    base = get_base(model)
    if has_experts(base.config):
        return True
    row = build_probe_row(build_probe_samples(base.config)).to(device)
    with _inference(model), RowAttention(base).active():
        model(**row.inputs).loss.backward()
    is_unused = any(weight.requires_grad and weight.grad is None for weight in model.parameters())
    model.zero_grad()
    return is_unused


def get_base(model: Any) -> Any:
    """The model below its adapters."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _check_windows(windows: Sequence[int | None], settings: Any) -> str | None:
    """A model that tells of its window by its mask alone would silently attend to everything."""
    kinds = getattr(settings, "layer_types", None)
    window = getattr(settings, "sliding_window", None)
    if kinds:
        num_sliding = list(kinds).count(_SLIDING)
    else:
        num_sliding = len(windows) if window is not None and getattr(settings, "use_sliding_window", True) else 0
    num_told = sum(each is not None for each in windows)
    if num_told < num_sliding:
        return f"{num_sliding} of its layers look at a window of tokens, and {num_told} tell of it"
    return None


def build_probe_samples(settings: Any) -> list[_Sample]:
    """Two short samples of random words."""
    vocab_size = settings.get_text_config().vocab_size
    generator = torch.Generator().manual_seed(0)
    return [_Sample(torch.randint(0, vocab_size, (length,), generator=generator).tolist()) for length in _LENGTHS]


def _measure_padded(model: nn.Module, samples: Sequence[_Sample], *, device: Any) -> torch.Tensor:
    longest = max(len(sample.input_ids) for sample in samples)
    ids_BL = torch.zeros(len(samples), longest, dtype=torch.long)
    mask_BL = torch.zeros_like(ids_BL)
    for row, sample in enumerate(samples):
        ids_BL[row, : len(sample.input_ids)] = torch.tensor(sample.input_ids)
        mask_BL[row, : len(sample.input_ids)] = 1
    ids_BL, mask_BL = ids_BL.to(device), mask_BL.to(device)
    logits_BLV = model(input_ids=ids_BL, attention_mask=mask_BL, use_cache=False).logits
    return torch.cat(
        [
            _losses(logits_BLV[row, : len(sample.input_ids)], ids_BL[row, : len(sample.input_ids)])
            for row, sample in enumerate(samples)
        ]
    )


def _measure_row(model: nn.Module, samples: Sequence[_Sample], *, device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    row = build_probe_row(samples).to(device)
    inputs = {name: value for name, value in row.inputs.items() if name != "labels"}
    logits_TV = model(**inputs).logits[0]
    ends = [0, *torch.tensor([len(sample.input_ids) for sample in samples]).cumsum(0).tolist()]
    ids_T = row.inputs["input_ids"][0]
    losses = [_losses(logits_TV[start:end], ids_T[start:end]) for start, end in itertools.pairwise(ends)]
    return torch.cat(losses), logits_TV


def build_probe_row(samples: Sequence[Any]) -> Row:
    """A row of samples that is not filled up."""
    longest = max(len(sample.input_ids) for sample in samples)
    shape = RowShape(capacity=sum(len(sample.input_ids) for sample in samples), longest=longest)
    return build_row(samples, shape=shape, fill_token_id=0)


def _losses(logits_LV: torch.Tensor, ids_L: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(logits_LV[:-1].float(), ids_L[1:], reduction="none")


@contextmanager
def _inference(model: nn.Module) -> Iterator[None]:
    """Without dropout, so that no random number is drawn."""
    was_training = model.training
    model.train(False)
    try:
        yield
    finally:
        model.train(was_training)
