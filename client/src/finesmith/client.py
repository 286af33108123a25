"""The client: one connection pool and the groups of calls over it."""

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from finesmith.models.installation import Health
from finesmith.paths import api_path
from finesmith.resources.files import Files
from finesmith.resources.jobs import Jobs
from finesmith.resources.previews import Previews
from finesmith.resources.registries import Registries
from finesmith.resources.workers import Workers
from finesmith.retry import RetryPolicy
from finesmith.settings import DEFAULT_TIMEOUT_SECONDS, build_settings
from finesmith.transport import Call, Transport
from finesmith.wire import JsonValue, as_object, decode


class Client:
    """A connection to a Finesmith service. Safe to share between threads; close it, or use it in a `with` statement.

    `base_url` comes from `FINESMITH_BASE_URL` if not given, and is `http://127.0.0.1:8000` without that; `api_key`
    comes from `FINESMITH_API_KEY`. `timeout` is how long each wait for the network may take, in seconds. `retry`
    says how failed calls are repeated.
    """

    files: Files
    """Data sets: upload, look up, download, delete."""
    jobs: Jobs
    """Jobs: submit, look up, steer, wait for, watch, download."""
    previews: Previews
    """What a model would see of a data set, token by token."""
    registries: Registries
    """The keys that a config may name."""
    workers: Workers
    """The processes that run jobs."""

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        retry: RetryPolicy | None = None,
    ) -> None:
        settings = build_settings(base_url, api_key=api_key, timeout_seconds=timeout, retry=retry)
        self._transport = Transport(settings)
        self.files = Files(self._transport)
        self.jobs = Jobs(self._transport, self.files)
        self.previews = Previews(self._transport, self.files)
        self.registries = Registries(self._transport)
        self.workers = Workers(self._transport)

    def config_schema(self, config_key: str = "base") -> Mapping[str, JsonValue]:
        """The JSON Schema of a job's config: every key with its type, default and meaning.

        `config_key` names the config of a plugin. Raises NotFoundError for one that no worker announced.
        """
        params = {} if config_key == "base" else {"config_key": config_key}
        return as_object(self._transport.send(Call("GET", api_path("config", "schema"), params=params)))

    def health(self) -> Health:
        """Whether the service can take jobs now. Raises APIConnectionError if it does not answer at all."""
        call = Call("GET", "/readyz", is_retried=False, answer_statuses=frozenset({503}))
        return decode(Health, self._transport.send(call))

    def close(self) -> None:
        """Closes all connections; followed streams end."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client(base_url={self._transport.settings.base_url!r})"
