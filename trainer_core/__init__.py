"""The trainer: prepares data, trains, fuses and quantizes; usable alone from a shell or a script.

Importing this package loads nothing heavier than pydantic; torch comes with the steps.
"""

from trainer_core.config import Config

__all__ = ["Config"]
