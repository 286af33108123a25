"""Whether a model has positions for samples as long as `max_length`."""

from typing import Any

from transformers import AutoConfig

from trainer_core.config import Config
from trainer_core.context import EventSink
from trainer_core.errors import ConfigError, Problem
from trainer_core.models.failures import load_errors


def check_max_length(config: Config, *, events: EventSink | None = None, settings: Any = None) -> None:
    """Raises ConfigError when the model has a table of positions (GPT-2, OPT) that is shorter than `max_length`; warns
    when it computes them (RoPE, ALiBi) but was trained on shorter texts (`events` None: says nothing then).

    `settings` are those of a model at hand; None: they are read from its folder or the Hub, without its weights.
    """
    settings = settings or _read_settings(config)
    text_settings = settings.get_text_config()
    num_positions = getattr(text_settings, "max_position_embeddings", None)
    if not isinstance(num_positions, int) or config.max_length <= num_positions:
        return
    if not _computes_positions(text_settings):
        message = (
            f"max_length={config.max_length} is more than the {num_positions} positions of a {settings.model_type} "
            f"model; set max_length to at most {num_positions}"
        )
        raise ConfigError([Problem(message, "max_length", "invalid_value")])
    if events is None:
        return
    events.emit(
        "warning",
        level="warning",
        message=(
            f"max_length={config.max_length} is more than the {num_positions} tokens that the model is made for: what "
            f"lies beyond is learned badly; set max_length to at most {num_positions}, or use a model for longer texts"
        ),
        data={"param": "max_length", "max_length": config.max_length, "num_positions": num_positions},
    )


def check_longest_row(config: Config, num_tokens: int) -> None:
    """Raises ConfigError when the longest row, cut at `max_length`, has more tokens than a model with RoPE was made
    for: it would learn to answer where it cannot tell positions apart."""
    settings = _read_settings(config).get_text_config()
    num_positions = getattr(settings, "max_position_embeddings", None)
    if not isinstance(num_positions, int) or getattr(settings, "alibi", False) or num_tokens <= num_positions:
        return
    message = (
        f"max_length={config.max_length}: a row has {num_tokens} tokens, more than the {num_positions} that the "
        f"model is made for; set max_length={num_positions}, which cuts such rows, or use a model for longer texts"
    )
    raise ConfigError([Problem(message, "max_length", "invalid_value")])


def _read_settings(config: Config) -> Any:
    with load_errors(f"the model {config.model_name_or_path!r}", param="model_name_or_path"):
        return AutoConfig.from_pretrained(
            config.model_name_or_path,
            trust_remote_code=config.trust_remote_code,
            revision=config.model_revision,
            token=config.huggingface_hub_token,
        )


def _computes_positions(settings: Any) -> bool:
    return bool(getattr(settings, "rope_parameters", None) or getattr(settings, "alibi", False))
