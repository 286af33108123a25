"""Which addresses a webhook may reach: public ones, and those that the installation allows."""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

IpAddress = IPv4Address | IPv6Address
IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

# The IANA registries of special-purpose addresses, and what clouds answer credentials on. Written out, because what
# `is_global` says differs between releases of Python.
_REFUSED = tuple(
    (ipaddress.ip_network(network), reason)
    for network, reason in (
        ("0.0.0.0/8", "unspecified"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "shared by a provider's customers"),
        ("127.0.0.0/8", "loopback"),
        ("168.63.129.16/32", "a cloud's own service"),
        ("169.254.0.0/16", "link-local"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "reserved"),
        ("192.0.2.0/24", "for documentation"),
        ("192.88.99.0/24", "reserved"),
        ("192.168.0.0/16", "private"),
        ("198.18.0.0/15", "for benchmarks"),
        ("198.51.100.0/24", "for documentation"),
        ("203.0.113.0/24", "for documentation"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
        ("::/128", "unspecified"),
        ("::1/128", "loopback"),
        ("64:ff9b:1::/48", "private"),
        ("2001::/23", "reserved"),
        ("2001:db8::/32", "for documentation"),
        ("3fff::/20", "for documentation"),
        ("5f00::/16", "reserved"),
        ("fc00::/7", "private"),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "private"),
        ("ff00::/8", "multicast"),
    )
)
_GLOBAL_IPV6 = ipaddress.ip_network("2000::/3")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


@dataclass(frozen=True, slots=True)
class AllowedHosts:
    """Hosts that may be private, or reached by plain http: lower-case names, and networks."""

    names: frozenset[str] = frozenset()
    networks: tuple[IpNetwork, ...] = ()

    @classmethod
    def parse(cls, entries: Sequence[str]) -> "AllowedHosts":
        """From names, addresses and CIDRs, as the settings hold them."""
        names, networks = set(), []
        for entry in entries:
            try:
                networks.append(ipaddress.ip_network(entry.strip("[]"), strict=False))
            except ValueError:
                names.add(entry.lower().removesuffix("."))
        return cls(frozenset(names), tuple(networks))

    def has_name(self, host: str) -> bool:
        return host in self.names

    def has_address(self, address: IpAddress) -> bool:
        """True for an address of an allowed network, also when it is an IPv4 address inside an IPv6 one."""
        return any(_unwrap(address) in network or address in network for network in self.networks)


def find_refusal(address: IpAddress, *, allowed: AllowedHosts) -> str | None:
    """What kind of address this is, if nothing may be sent there; None if it may."""
    if allowed.has_address(address):
        return None
    inner = _unwrap(address)
    for network, reason in _REFUSED:
        if inner in network:
            return reason
    if isinstance(inner, IPv6Address) and inner not in _GLOBAL_IPV6:
        return "reserved"
    return None if inner.is_global else "not public"


def _unwrap(address: IpAddress) -> IpAddress:
    """The IPv4 address that packets to an IPv4-mapped, NAT64 or 6to4 address end at; any other as it is."""
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return IPv6Address(int(address)) if address.scope_id else address
