"""The processes that run jobs."""

from finesmith.models.installation import Worker
from finesmith.models.page import Page
from finesmith.pages import ListQuery, fetch_page
from finesmith.paths import api_path
from finesmith.transport import Transport


class Workers:
    """`client.workers`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> Page[Worker]:
        """The workers that the installation knows, offline ones included."""
        return fetch_page(self._transport, ListQuery(api_path("workers"), Worker))
