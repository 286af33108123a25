"""The keys that a config may name."""

from finesmith.models.installation import Registries as RegistryKeys
from finesmith.paths import api_path
from finesmith.transport import Call, Transport
from finesmith.wire import as_object, decode


class Registries:
    """`client.registries`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def get(self) -> RegistryKeys:
        """The keys of every registry, as the workers announced them."""
        answer = as_object(self._transport.send(Call("GET", api_path("registries"))))
        return decode(RegistryKeys, answer.get("data"))
