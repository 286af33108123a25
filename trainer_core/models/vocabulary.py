"""Whether a tokenizer fits the embeddings of a model."""

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trainer_core.context import EventSink
from trainer_core.errors import ModelLoadError


def check_vocabulary(model: PreTrainedModel, *, tokenizer: PreTrainedTokenizerBase | None, events: EventSink) -> None:
    """Raises ModelLoadError when the model has no embedding for a token that every batch holds (padding, start, end);
    warns of other tokens without one, which some published tokenizers have and never use."""
    embeddings = model.get_input_embeddings()
    num_embeddings = getattr(embeddings, "num_embeddings", None)
    if tokenizer is None or num_embeddings is None or len(tokenizer) <= num_embeddings:
        return
    specials = {name: getattr(tokenizer, f"{name}_token_id", None) for name in ("pad", "bos", "eos")}
    for name, token_id in specials.items():
        if token_id is not None and token_id >= num_embeddings:
            message = (
                f"the tokenizer's {name} token has id {token_id}, but the model has {num_embeddings} embeddings; use "
                "the model's own tokenizer, or resize the embeddings in an experiment's after_model_build"
            )
            raise ModelLoadError(message, param="tokenizer_name_or_path")
    events.emit(
        "warning",
        level="warning",
        message=f"the tokenizer knows {len(tokenizer)} tokens, the model {num_embeddings}: texts with the others fail",
        data={"param": "tokenizer_name_or_path", "num_tokens": len(tokenizer), "num_embeddings": num_embeddings},
    )
