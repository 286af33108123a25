"""The URL of a receiver: parsed once, strictly, so that no two readers of it can disagree."""

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from app.webhooks.addresses import AllowedHosts, IpAddress, find_refusal
from app.webhooks.errors import BadWebhookUrl

MAX_URL_CHARS = 2048
_DEFAULT_PORTS = {"https": 443, "http": 80}
_PRINTABLE = re.compile(r"[\x21-\x7e]+")
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(?:{_LABEL}\.)*{_LABEL}")
# What inet_aton takes for a number: 127.1, 2130706433, 0x7f.1.
_NUMBER = re.compile(r"(?:\d+|0x[0-9a-f]*)")


@dataclass(frozen=True, slots=True)
class Target:
    """Where a message goes; `host` is lower-case, without brackets or a final dot."""

    is_tls: bool
    host: str
    port: int
    request_target: str

    @property
    def address(self) -> IpAddress | None:
        """The address that the host is; None for a name."""
        return _parse_address(self.host)

    @property
    def host_header(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS["https" if self.is_tls else "http"] else f"{host}:{self.port}"


def parse_target(url: str, *, allowed: AllowedHosts) -> Target:
    """The parts of a receiver's URL. Raises BadWebhookUrl for all that can be known to be wrong without the network."""
    if len(url) > MAX_URL_CHARS:
        raise BadWebhookUrl(f"a URL has at most {MAX_URL_CHARS} characters")
    if not _PRINTABLE.fullmatch(url) or "\\" in url:
        raise BadWebhookUrl("a URL holds printable ASCII alone, no spaces and no backslash: percent-encode the rest")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise BadWebhookUrl("this is no URL; write https://host/path, with a port between 1 and 65535") from error
    _check_parts(url, parts, port)
    host = _read_host(parts)
    target = Target(
        is_tls=parts.scheme == "https",
        host=host,
        port=_DEFAULT_PORTS[parts.scheme] if port is None else port,
        request_target=(parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
    )
    _check_host(target, allowed)
    return target


def check_scheme(target: Target, allowed: AllowedHosts) -> None:
    """Plain http is for hosts that the installation names. Raises BadWebhookUrl."""
    address = target.address
    is_named = allowed.has_name(target.host) or (address is not None and allowed.has_address(address))
    if not target.is_tls and not is_named:
        raise BadWebhookUrl("use https; plain http is for the hosts of FINESMITH_WEBHOOK_ALLOWED_HOSTS alone")


def _check_parts(url: str, parts: SplitResult, port: int | None) -> None:
    if parts.scheme not in _DEFAULT_PORTS or not url[len(parts.scheme) :].startswith("://"):
        raise BadWebhookUrl("use https://host/path")
    if "@" in parts.netloc:
        raise BadWebhookUrl("a user or password in the URL is not sent; check the message's signature instead")
    if "#" in url:
        raise BadWebhookUrl("a fragment (#…) is not sent; leave it out")
    if port == 0 or parts.netloc.endswith(":"):
        raise BadWebhookUrl("the port must be between 1 and 65535")


def _read_host(parts: SplitResult) -> str:
    host = (parts.hostname or "").removesuffix(".")
    if "[" in parts.netloc:
        address = _parse_address(host)
        # A zone (%eth0) names an interface of the sender, which is nobody's business.
        if address is None or "%" in host:
            raise BadWebhookUrl("the address in brackets is no IPv6 address")
        return str(address)
    if len(host) > 253 or not _NAME.fullmatch(host):
        raise BadWebhookUrl("the URL has no valid host name; write a name of another script in its xn-- form")
    if _NUMBER.fullmatch(host.rpartition(".")[2]) and _parse_address(host) is None:
        raise BadWebhookUrl("write an IPv4 address as four decimal numbers")
    return host


def _check_host(target: Target, allowed: AllowedHosts) -> None:
    check_scheme(target, allowed)
    if allowed.has_name(target.host):
        return
    if target.host == "localhost" or target.host.endswith(".localhost"):
        raise BadWebhookUrl("localhost is this service's own host, which FINESMITH_WEBHOOK_ALLOWED_HOSTS does not name")
    address = target.address
    reason = None if address is None else find_refusal(address, allowed=allowed)
    if reason is not None:
        raise BadWebhookUrl(f"the address is {reason}, which FINESMITH_WEBHOOK_ALLOWED_HOSTS does not allow")


def _parse_address(host: str) -> IpAddress | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
