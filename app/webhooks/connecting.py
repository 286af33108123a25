"""Connections to receivers: the addresses are looked up once, checked, and one of those very addresses is called."""

import ipaddress
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence

from app.webhooks.addresses import AllowedHosts, find_refusal
from app.webhooks.errors import BadWebhookUrl, SendFailed
from app.webhooks.targets import Target, check_scheme

Resolve = Callable[[str, int], Sequence[str]]
"""From host and port to the text of addresses; raises OSError."""
_MOST_ADDRESSES = 4
_SHORTEST_WAIT_SECONDS = 0.001


class Deadline:
    """A moment by which something must be done."""

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds

    def left_seconds(self) -> float:
        """Raises TimeoutError when nothing is left."""
        left = self._until - time.monotonic()
        if left < _SHORTEST_WAIT_SECONDS:
            raise TimeoutError
        return left

    def shorten(self, seconds: float) -> "Deadline":
        """The earlier of this one and `seconds` from now."""
        return Deadline(min(seconds, max(0.0, self._until - time.monotonic())))


def resolve_by_system(host: str, port: int) -> Sequence[str]:
    """What the system's resolver says."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class Connector:
    """Opens connections that no name, redirect or proxy can lead to an address that is not allowed."""

    def __init__(
        self,
        allowed: AllowedHosts,
        *,
        connect_seconds: float = 5.0,
        resolve: Resolve = resolve_by_system,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._allowed = allowed
        self._connect_seconds = connect_seconds
        self._resolve = resolve
        self._tls = tls or ssl.create_default_context()

    def connect(self, target: Target, deadline: Deadline) -> socket.socket:
        """A connection with its TLS handshake done. Raises SendFailed; TimeoutError after the deadline."""
        try:
            # The settings may have changed since the webhook was made.
            check_scheme(target, self._allowed)
        except BadWebhookUrl as error:
            raise SendFailed(str(error)) from error
        deadline = deadline.shorten(self._connect_seconds)
        try:
            plain = self._connect_to_first(self._find_addresses(target, deadline), target.port, deadline)
            return self._start_tls(plain, target, deadline) if target.is_tls else plain
        except TimeoutError as error:
            raise SendFailed(f"no connection within {self._connect_seconds:g} s") from error

    def _find_addresses(self, target: Target, deadline: Deadline) -> Sequence[str]:
        """All addresses of the host, each of them checked. Raises SendFailed."""
        literal = target.address
        addresses = [str(literal)] if literal is not None else self._look_up(target, deadline)
        if self._allowed.has_name(target.host):
            return addresses
        for address in addresses:
            reason = find_refusal(ipaddress.ip_address(address), allowed=self._allowed)
            if reason is not None:
                # Which address it is would tell a tenant what lies in the network of the service.
                raise SendFailed(
                    f"the host has an address that is {reason}, which FINESMITH_WEBHOOK_ALLOWED_HOSTS does not allow"
                )
        return addresses

    def _look_up(self, target: Target, deadline: Deadline) -> Sequence[str]:
        """The system's resolver knows no time limit: it runs in a thread, which is left behind when it is slow."""
        answers: queue.SimpleQueue[Sequence[str] | OSError | UnicodeError] = queue.SimpleQueue()

        def look_up() -> None:
            try:
                answers.put(self._resolve(target.host, target.port))
            except (OSError, UnicodeError) as error:
                answers.put(error)

        threading.Thread(target=look_up, name="webhook-resolver", daemon=True).start()
        try:
            answer = answers.get(timeout=deadline.left_seconds())
        except queue.Empty as error:
            raise TimeoutError from error
        if isinstance(answer, Exception) or not answer:
            raise SendFailed("the host name is not known")
        return answer

    def _connect_to_first(self, addresses: Sequence[str], port: int, deadline: Deadline) -> socket.socket:
        tried = addresses[:_MOST_ADDRESSES]
        for index, address in enumerate(tried):
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            connection = socket.socket(family, socket.SOCK_STREAM)
            try:
                # An address that swallows packets leaves time for the next one.
                connection.settimeout(deadline.left_seconds() / (len(tried) - index))
                connection.connect((address, port))
            except OSError as error:
                connection.close()
                if index == len(tried) - 1:
                    raise _describe(error) from error
            else:
                return connection
        raise SendFailed("the host name is not known")

    def _start_tls(self, plain: socket.socket, target: Target, deadline: Deadline) -> ssl.SSLSocket:
        try:
            plain.settimeout(deadline.left_seconds())
            return self._tls.wrap_socket(plain, server_hostname=target.host)
        except ssl.SSLCertVerificationError as error:
            plain.close()
            raise SendFailed(f"the receiver's certificate is not valid: {error.verify_message}") from error
        except TimeoutError:
            plain.close()
            raise
        except OSError as error:
            plain.close()
            raise SendFailed("the TLS handshake failed") from error


def _describe(error: OSError) -> Exception:
    if isinstance(error, TimeoutError):
        return error
    if isinstance(error, ConnectionRefusedError):
        return SendFailed("the connection was refused")
    return SendFailed("the host cannot be reached")
