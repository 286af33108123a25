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
    if settings is None:
        with load_errors(f"the model {config.model_name_or_path!r}", param="model_name_or_path"):
            settings = AutoConfig.from_pretrained(
                config.model_name_or_path,
                trust_remote_code=config.trust_remote_code,
                revision=config.model_revision,
                token=config.huggingface_hub_token,
            )
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


def _computes_positions(settings: Any) -> bool:
    return bool(getattr(settings, "rope_parameters", None) or getattr(settings, "alibi", False))
