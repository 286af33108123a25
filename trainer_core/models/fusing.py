"""Merging a LoRA adapter into its base, and saving the whole model."""

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trainer_core.config import Config
from trainer_core.context import ArtifactFolder
from trainer_core.errors import FuseError
from trainer_core.file_modes import share_files
from trainer_core.models.adapter_files import PARAM, AdapterFacts, read_adapter
from trainer_core.models.adapter_fit import attach_adapter, check_adapter_fits
from trainer_core.models.dtype import choose_dtype
from trainer_core.models.loading import LoadingChoices, load_model, repair_generation_config
from trainer_core.models.quantization import is_quantized


def choose_fused_dtype(config: Config) -> torch.dtype | str:
    """By the dtype rules on a GPU; without one as the checkpoint was saved ("auto"), unless the Config forces fp32 or
    fp16: a CPU would otherwise blow a 16-bit model up to fp32."""
    if config.force_fp16:
        return torch.float16
    if torch.cuda.is_available() or config.force_fp32:
        return choose_dtype(config)
    return "auto"


def fuse_adapter(config: Config, *, adapter: Path) -> PreTrainedModel:
    """The Config's base in 16 bits (see `choose_fused_dtype`) with the adapter merged into it.

    Raises FuseError for an adapter that is empty, not finite, or of another base.
    """
    facts = read_adapter(adapter)
    choices = LoadingChoices(dtype=choose_fused_dtype(config), device_map=config.device_map, packed="dequantize")
    return merge_adapter(load_model(config, choices=choices), adapter=adapter, facts=facts)


def merge_adapter(base: PreTrainedModel, *, adapter: Path, facts: AdapterFacts) -> PreTrainedModel:
    """Merges the adapter in the folder into `base`, which is changed, and returns the plain model."""
    _fit_embeddings(base, facts)
    _untie_targeted_embeddings(base, facts)
    model = attach_adapter(base, adapter=adapter)
    check_adapter_fits(model, facts, adapter=adapter)
    merged = _merge(model)
    if facts.keeps_tying:
        _tie_again(merged)
    repair_generation_config(merged)
    return merged  # type: ignore[no-any-return]


def fuse_trained_model(model: PeftModel, *, config: Config, adapter: Path) -> PreTrainedModel:
    """The model that has just been trained, merged in memory; over a quantized or rounded base, the base loaded anew
    and the adapter saved in the folder `adapter`."""
    if is_quantized(model) or getattr(model, "has_rounded_base", False):
        return fuse_adapter(config, adapter=adapter)
    merged = _merge(model)
    merged.config.use_cache = True
    repair_generation_config(merged)
    return merged.to(choose_dtype(config))  # type: ignore[no-any-return]


def save_fused_model(
    model: PreTrainedModel, *, tokenizer: PreTrainedTokenizerBase | None, folder: Path, max_shard_size: str
) -> ArtifactFolder:
    """Writes weights in files of at most `max_shard_size`, settings and tokenizer; see `publish_fused_model`."""

    def write(unfinished: Path) -> None:
        model.save_pretrained(unfinished, max_shard_size=max_shard_size.replace(" ", ""))

    return publish_fused_model(folder, write=write, tokenizer=tokenizer)


def publish_fused_model(
    folder: Path, *, write: Callable[[Path], None], tokenizer: PreTrainedTokenizerBase | None
) -> ArtifactFolder:
    """Puts what `write` writes into an empty folder, and the tokenizer, into `folder`; other files there stay.

    Everything is written beside the folder first, so that a crash leaves no half model in it.
    """
    unfinished = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    write(unfinished)
    if tokenizer is not None:
        tokenizer.save_pretrained(unfinished)
    share_files(unfinished)
    folder.mkdir(exist_ok=True)
    for old in folder.glob("model*.safetensors*"):
        old.unlink()
    files = sorted(path.name for path in unfinished.iterdir() if path.is_file())
    for name in files:
        (unfinished / name).replace(folder / name)
    shutil.rmtree(unfinished)
    return ArtifactFolder(name="fused", root=folder, files=tuple(files))


def _merge(model: Any) -> Any:
    """peft computes each product first and refuses values that are not finite: FuseError."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Input and output embeddings are no longer tied")
        try:
            return model.merge_and_unload(safe_merge=True)
        except ValueError as error:
            raise FuseError(describe_broken_merge(), param=PARAM) from error


def describe_broken_merge() -> str:
    """What is told of a merge whose result is not finite."""
    return "merging the adapter into its base gives values that are not finite: one of the two is broken"


def _fit_embeddings(base: PreTrainedModel, facts: AdapterFacts) -> None:
    """An adapter trained with new tokens brings the whole embeddings, larger than the base's."""
    embeddings: tuple[Any, ...] = (base.get_input_embeddings(), _get_head(base))
    for module in embeddings:
        name = _find_name(base, module)
        rows = {shape[0] for key, shape in facts.shapes.items() if name and key.endswith(f".{name}.weight")}
        if rows and rows != {module.weight.shape[0]}:
            resize: Any = base.resize_token_embeddings
            resize(rows.pop(), mean_resizing=False)
            return


def _untie_targeted_embeddings(base: PreTrainedModel, facts: AdapterFacts) -> None:
    """An adapter on the head alone, merged into a weight that the embeddings share, would change these too."""
    head = _get_head(base)
    embeddings: Any = base.get_input_embeddings()
    if head is None or head.weight is not embeddings.weight or facts.keeps_tying:
        return
    names = [name for name in (_find_name(base, head), _find_name(base, embeddings)) if name]
    if any(f".{name}." in key for name in names for key in facts.shapes):
        head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
        base.config.tie_word_embeddings = False
        base.all_tied_weights_keys = {}


def _tie_again(model: Any) -> None:
    """peft gives head and embeddings equal weights of their own where it does not know how the model names them."""
    head, embeddings = _get_head(model), model.get_input_embeddings()
    if head.weight is not embeddings.weight and torch.equal(head.weight, embeddings.weight):
        head.weight = embeddings.weight
        model.config.tie_word_embeddings = True


def _get_head(model: PreTrainedModel) -> Any:
    return model.get_output_embeddings()  # type: ignore[no-untyped-call]


def _find_name(model: nn.Module, wanted: Any) -> str | None:
    return next((name for name, module in model.named_modules() if module is wanted), None)
