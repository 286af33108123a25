"""The Config with the keys of this project."""

from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field

from trainer_core import Config


@dataclass
class GlossaryConfig(Config):
    """All keys of Finesmith's Config, and two more."""

    question: str = field(
        default="What does {term} mean?",
        metadata={"help": "How a term is asked for; {term} stands for it."},
    )
    focus: Annotated[float, Field(ge=0, le=5)] = field(
        default=1.0,
        metadata={"help": "How much less a token weighs that the model knows already; 0: not at all."},
    )
