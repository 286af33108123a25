"""A model whose adapter was taken out of the base's weights, and whose saved adapter fits the unchanged base.

The base is changed: W becomes `W - s*B0*A0`. An adapter (A, B) of it means nothing to the base that others load, so
that what is saved is `s*(B*A - B0*A0)`: an adapter of twice the rank, `[A; A0]` and `[B, -B0]`. Checkpoints are saved
so too, and both halves are read back from them when training goes on.
"""

import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModelForCausalLM, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from trainer_core.checkpoints import ADAPTER_CONFIG
from trainer_core.models.adapter_files import WEIGHTS
from trainer_core.models.decomposition import Decomposition, InitialPair, get_oriented_weight, set_oriented_weight

_ADAPTER = "default"
_MATRICES = (".lora_A.weight", ".lora_B.weight")
_BASE_WEIGHT = ".base_layer.weight"


class DecomposedPeftModel(PeftModelForCausalLM):
    """As peft's model; saves and loads adapters of the base as it was."""

    initial_pairs: dict[str, InitialPair]
    """The adapter's matrices before the first step, in fp32 on the CPU, by the layer's name in adapter files."""
    has_rounded_base: bool
    """The base lies rounded in memory (LoftQ), so that what is trained is not exactly base and saved adapter."""

    def save_pretrained(self, save_directory: str, *args: Any, **kwargs: Any) -> None:
        """Saves as peft does, then rewrites the files for the unchanged base."""
        super().save_pretrained(save_directory, *args, **kwargs)
        if kwargs.get("is_main_process", True):
            self._double_saved_rank(Path(save_directory))

    def load_adapter(self, model_id: Any, adapter_name: str, *args: Any, **kwargs: Any) -> Any:
        """Loads a checkpoint's adapter; its initial half becomes this model's own."""
        path = Path(str(model_id)) / WEIGHTS
        if adapter_name != _ADAPTER or not path.is_file():
            return super().load_adapter(model_id, adapter_name, *args, **kwargs)
        weights = load_file(path)
        self.initial_pairs = _read_initial_pairs(weights)
        for layer in self.initial_pairs:
            for dim, matrix in enumerate(_MATRICES):
                trained, _ = weights[f"{layer}{matrix}"].chunk(2, dim=dim)
                weights[f"{layer}{matrix}"] = trained.contiguous()
            weights.pop(f"{layer}{_BASE_WEIGHT}", None)
        return set_peft_model_state_dict(self, weights, adapter_name=adapter_name)

    def _double_saved_rank(self, folder: Path) -> None:
        weights = load_file(folder / WEIGHTS)
        for layer, pair in self.initial_pairs.items():
            name_a, name_b = (f"{layer}{matrix}" for matrix in _MATRICES)
            # fp32 also where the adapter is trained in bf16: the initial matrices must cancel out.
            weights[name_a] = torch.cat([weights[name_a].float(), pair.a_RI], dim=0)
            weights[name_b] = torch.cat([weights[name_b].float(), -pair.b_OR], dim=1)
            if f"{layer}{_BASE_WEIGHT}" in weights:
                # peft saves a targeted head whole, which here is only what was left of it.
                tuner: Any = self.get_submodule(layer)
                missing = tuner.scaling[_ADAPTER] * (pair.b_OR @ pair.a_RI)
                left = weights[f"{layer}{_BASE_WEIGHT}"]
                weights[f"{layer}{_BASE_WEIGHT}"] = (left.float() + missing).to(left.dtype)
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
        path = folder / ADAPTER_CONFIG
        settings = json.loads(path.read_text(encoding="utf-8"))
        growth = 2**0.5 if settings.get("use_rslora") else 2
        settings |= {"r": settings["r"] * 2, "lora_alpha": settings["lora_alpha"] * growth}
        path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def attach_decomposed(
    model: PreTrainedModel,
    *,
    lora_config: LoraConfig,
    resume_from: Path | None = None,
    adapter_dtype: torch.dtype = torch.float32,
) -> DecomposedPeftModel:
    """Moves a part of each targeted layer's weight into a new adapter: `model` is changed, what it computes is not
    (with LoftQ as far as the adapter makes up for the rounding).

    `resume_from` is a checkpoint's folder, whose initial matrices are used again. `adapter_dtype` is what the adapter
    will be trained in. `lora_config` becomes what adapter files are to say: loading them decomposes nothing. Raises
    ConfigError for layers that cannot be decomposed.
    """
    method = str(lora_config.init_lora_weights)
    loftq: Any = lora_config.loftq_config or {}
    lora_config.init_lora_weights, lora_config.loftq_config = True, {}
    lora_config.base_model_name_or_path = model.name_or_path or None
    has_adapter = resume_from is not None and (resume_from / WEIGHTS).is_file()
    saved = _read_initial_pairs(load_file(Path(str(resume_from)) / WEIGHTS)) if has_adapter else {}
    embeddings: Any = model.get_input_embeddings()
    peft_model = DecomposedPeftModel(model, lora_config, adapter_name=_ADAPTER)
    peft_model.initial_pairs, peft_model.has_rounded_base = {}, method == "loftq"
    for name, layer in peft_model.named_modules():
        if isinstance(layer, LoraLayer) and _ADAPTER in layer.r:
            base = layer.get_base_layer()
            weight_OI = get_oriented_weight(base, name=name, method=method, tied_to=embeddings.weight)
            decomposition = Decomposition(method, layer.r[_ADAPTER], layer.scaling[_ADAPTER], adapter_dtype, **loftq)
            pair, residual_OI = decomposition.split(weight_OI, name=name, pair=saved.get(name))
            _set_adapter(layer, pair)
            set_oriented_weight(base, residual_OI)
            peft_model.initial_pairs[name] = pair.to_cpu()
    return peft_model


def _set_adapter(layer: LoraLayer, pair: InitialPair) -> None:
    for matrices, initial in ((layer.lora_A, pair.a_RI), (layer.lora_B, pair.b_OR)):
        weight: Any = matrices[_ADAPTER].weight
        weight.data.copy_(initial)


def _read_initial_pairs(weights: dict[str, torch.Tensor]) -> dict[str, InitialPair]:
    """The initial halves of what `DecomposedPeftModel` has saved."""
    layers = [name.removesuffix(_MATRICES[0]) for name in weights if name.endswith(_MATRICES[0])]
    return {
        layer: InitialPair(
            weights[f"{layer}{_MATRICES[0]}"].chunk(2, dim=0)[1].clone(),
            -weights[f"{layer}{_MATRICES[1]}"].chunk(2, dim=1)[1],
        )
        for layer in layers
    }
