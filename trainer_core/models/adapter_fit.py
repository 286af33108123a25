"""Putting a saved adapter onto a base, and whether the two belong together."""

import warnings
from pathlib import Path

from peft import PeftModel, get_peft_model_state_dict
from transformers import PreTrainedModel

from trainer_core.errors import FuseError
from trainer_core.models.adapter_files import PARAM, AdapterFacts
from trainer_core.models.failures import load_errors


def attach_adapter(base: PreTrainedModel, *, adapter: Path, is_meta: bool = False) -> PeftModel:
    """`base`, which is changed, with the adapter in the folder on it. `is_meta`: the base has no values, and the
    adapter gets none.

    Raises FuseError for shapes or layers that the base does not have.
    """
    with load_errors(f"the adapter in {adapter}", param=PARAM), warnings.catch_warnings():
        try:
            # Of names that peft does not know: such weights are tied again after the merge.
            warnings.filterwarnings("ignore", message=".*ensure_weight_tying")
            return PeftModel.from_pretrained(
                base, str(adapter), autocast_adapter_dtype=False, low_cpu_mem_usage=is_meta
            )
        except (RuntimeError, ValueError) as error:
            first_mismatches = " ".join(str(error).split("\n\t")[1:3])
            message = (
                f"the adapter in {adapter} does not fit {base.config.name_or_path}; give the base it was trained on as "
                f"model_name_or_path: {first_mismatches or error}"
            )
            raise FuseError(message, param=PARAM) from error


def check_adapter_fits(model: PeftModel, facts: AdapterFacts, *, adapter: Path) -> None:
    """Raises FuseError where peft only warns: weights that it found no place for, or no weights for."""
    expected = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    missing = expected - set(facts.shapes)
    # Whole embeddings may lie beside an adapter that has none on them.
    unused = {name for name in facts.shapes if "lora_" in name} - expected
    if missing or unused:
        examples = ", ".join(sorted(missing | unused)[:3])
        message = (
            f"the adapter in {adapter} does not fit the base: {len(unused)} of its weights have no layer, "
            f"{len(missing)} layers no weights ({examples}); give the base it was trained on"
        )
        raise FuseError(message, param="model_name_or_path")
