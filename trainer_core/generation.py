"""One answer of a model to a conversation."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from trainer_core.errors import DataError
from trainer_core.evaluation import load_for_inference
from trainer_core.tokenizers.loading import load_source_tokenizer

if TYPE_CHECKING:
    from trainer_core.config import Config


def generate_answer(
    model_path: str | Path,
    messages: Sequence[Mapping[str, str]] | str,
    config: "Config",
    *,
    adapter_path: str | Path | None = None,
    max_new_tokens: int = 64,
    repetition_penalty: float = 1.0,
) -> str:
    """The likeliest answer to `messages` (role and content each), or continuation of a text, special tokens left out.

    Loads the model; greedy, so that the same model gives the same answer. A `repetition_penalty` above 1 makes tokens
    that were said already less likely. Raises ModelLoadError, and DataError for a
    tokenizer without a chat template.
    """
    tokenizer = load_source_tokenizer(str(model_path), config=config)
    rendered = _render(tokenizer, messages)
    model: Any = load_for_inference(model_path, config, adapter_path=adapter_path)
    prompt = rendered.to(model.device)
    with torch.no_grad():
        output = model.generate(
            **prompt,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            repetition_penalty=repetition_penalty,
            pad_token_id=tokenizer.pad_token_id,
        )
    answer = output[0, prompt["input_ids"].shape[1] :]
    return str(tokenizer.decode(answer, skip_special_tokens=True)).strip()


def _render(tokenizer: Any, messages: Sequence[Mapping[str, str]] | str) -> Any:
    if isinstance(messages, str):
        return tokenizer(messages, return_tensors="pt", return_token_type_ids=False)
    if tokenizer.chat_template is None:
        message = (
            "the tokenizer has no chat template, so that it cannot render messages; "
            'set chat_template="chatml" or a template\'s Jinja text'
        )
        raise DataError(message, param="chat_template")
    return tokenizer.apply_chat_template(
        [dict(message) for message in messages], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
