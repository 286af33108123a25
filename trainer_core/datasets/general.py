"""The data set of rows that hold text."""

from collections.abc import Sequence
from typing import Any, ClassVar, Self

from trainer_core.config import Config
from trainer_core.datasets.base import BaseDataset, Data
from trainer_core.datasets.row_error import RowError
from trainer_core.types import RawSample


class GeneralDataset(BaseDataset):
    """Rows with `text_parts`, or with a text in `sample_field`; it brings no rows of its own."""

    keeps_rows_on_disk: ClassVar[bool] = True
    gives_same_samples: ClassVar[bool] = True

    def __init__(
        self,
        data: Sequence[RawSample],
        sample_field: str | None = None,
        separator: str | None = None,
        must_have_keys: Sequence[str] | None = None,
    ) -> None:
        """`sample_field` None: the Config's `dataset_sample_field`, else `text`. `separator` None: a text is one part.

        Raises ValueError for an empty separator.
        """
        super().__init__(data=data, must_have_keys=must_have_keys)
        if separator == "":
            raise ValueError("separator: an empty text separates nothing; leave it at None")
        self._takes_field_from_config = sample_field is None
        self.sample_field = sample_field or "text"
        self.separator = separator

    @classmethod
    def get_data(cls, config: Config) -> Data | None:
        """Returns None: rows come from an uploaded file, a file at the Config's paths, or `from_list`."""
        return None

    @classmethod
    def from_list(
        cls,
        data: Sequence[str | list[str]],
        sample_field: str | None = None,
        separator: str | None = None,
        **kwargs: Any,
    ) -> Self:
        """A data set of texts, or of lists of parts, that lie in memory."""
        field = sample_field or "text"
        return cls(data=[{field: item} for item in data], sample_field=field, separator=separator, **kwargs)

    def configure(self, config: Config) -> None:
        """Takes `dataset_sample_field`, unless the constructor was given a field."""
        if self._takes_field_from_config:
            self.sample_field = config.dataset_sample_field

    def get_sample(self, index: int) -> RawSample:
        """The row's text as `text_parts`. Raises RowError for a row without text."""
        row: Any = self.data[index]
        content = self._get_content(row, index)
        if isinstance(content, str):
            return {"text_parts": content.split(self.separator) if self.separator else [content]}
        if isinstance(content, list):
            return {"text_parts": content}
        name = type(content).__name__
        raise self._error(f"{self.sample_field!r} must be a text or a list of texts, not {name}", index)

    def _get_content(self, row: Any, index: int) -> Any:
        if not isinstance(row, dict):
            return row
        for field in (self.sample_field, "text_parts"):
            if field in row:
                return row[field]
        known = ", ".join(repr(key) for key in list(row)[:10]) or "no key"
        raise self._error(f"the row has neither {self.sample_field!r} nor 'text_parts'; it has {known}", index)

    def _error(self, reason: str, index: int) -> RowError:
        return RowError(reason, index=index, dataset=type(self).__name__)
