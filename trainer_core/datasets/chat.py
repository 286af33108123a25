"""The data set of conversations: rows with `messages`, as in OpenAI's fine-tuning files."""

from typing import Any, ClassVar

from trainer_core.config import Config
from trainer_core.datasets.base import BaseDataset, Data
from trainer_core.datasets.row_error import RowError
from trainer_core.types import RawSample

KEYS_OF_PREFERENCES = ("input", "preferred_output", "non_preferred_output")


class ChatDataset(BaseDataset):
    """Hands each row's messages to the chat collator; it brings no rows of its own."""

    default_must_have_keys: ClassVar[tuple[str, ...]] = ("messages",)
    keeps_rows_on_disk: ClassVar[bool] = True
    gives_same_samples: ClassVar[bool] = True

    @classmethod
    def get_data(cls, config: Config) -> Data | None:
        """Returns None: rows come from an uploaded file or a file at the Config's paths."""
        return None

    def get_sample(self, index: int) -> RawSample:
        """The row as it is: the chat template may know more keys than `messages` and `tools`.

        Raises RowError for a row that is no conversation.
        """
        row: Any = self.data[index]
        if not isinstance(row, dict):
            raise RowError("the row is not a JSON object with 'messages'", index=index, dataset=type(self).__name__)
        refused = [key for key in KEYS_OF_PREFERENCES if row.get(key)]
        if refused and "messages" not in row:
            names = ", ".join(repr(key) for key in refused)
            reason = f"{names} belong to rows of preferences, which are not supported; rows need 'messages'"
            raise RowError(reason, index=index, dataset=type(self).__name__)
        return row
