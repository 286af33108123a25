"""Previews: what a model would see of a data set."""

from collections.abc import Mapping
from pathlib import Path

from finesmith.models.preview import Preview
from finesmith.paths import api_path
from finesmith.resources.files import Files
from finesmith.submission import DataSet, find_data_set
from finesmith.transport import Call, Transport
from finesmith.wire import decode


class Previews:
    """`client.previews`."""

    def __init__(self, transport: Transport, files: Files) -> None:
        self._transport = transport
        self._files = files

    def create(self, *, config: Mapping[str, object], file: DataSet, n: int = 3) -> Preview:
        """Lets a worker render the first `n` rows of a data set as the config would; look at it with `get`.

        A data set that is a local path is uploaded first. A call whose answer is lost may leave a second preview, which
        does no harm. Raises UnprocessableEntityError or BadRequestError whose `details` name everything that is wrong.
        """
        place = find_data_set(file, name="file")
        file_id = self._files.upload(place).id if isinstance(place, Path) else place
        body = {"config": dict(config), "file": file_id, "n": n}
        return decode(Preview, self._transport.send(Call("POST", api_path("previews"), json=body)))

    def get(self, preview_id: str, *, wait: float | None = None) -> Preview:
        """Looks a preview up; with `wait` only when it has succeeded or failed, or after so many seconds (60 at most).

        Raises NotFoundError, also for one that is older than a day.
        """
        path = api_path("previews", preview_id)
        if not wait:
            return decode(Preview, self._transport.send(Call("GET", path)))
        call = Call(
            "GET",
            path,
            params={"wait": f"{wait:.3g}"},
            read_timeout_seconds=wait + self._transport.settings.timeout_seconds,
        )
        return decode(Preview, self._transport.send(call))
