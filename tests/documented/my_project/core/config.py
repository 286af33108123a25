"""A Config with a field more."""

from dataclasses import dataclass, field

from trainer_core import Config


@dataclass
class DemoConfig(Config):
    """As the documentation extends it."""

    text_field: str = field(default="chosen", metadata={"help": "Field of the rows that holds the text"})
