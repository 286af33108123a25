"""Which URLs and addresses can be receivers, with the reason a row."""

import ipaddress

import pytest
from pydantic import ValidationError

from app.settings import Settings
from app.webhooks.addresses import AllowedHosts, find_refusal
from app.webhooks.errors import BadWebhookUrl
from app.webhooks.targets import MAX_URL_CHARS, parse_target

NOBODY = AllowedHosts()


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("0.0.0.0", "unspecified"),
        ("0.1.2.3", "unspecified"),
        ("10.0.0.1", "private"),
        ("172.16.0.1", "private"),
        ("172.31.255.255", "private"),
        ("192.168.1.1", "private"),
        ("127.0.0.1", "loopback"),
        ("127.255.0.9", "loopback"),
        ("169.254.169.254", "link-local"),
        ("169.254.170.2", "link-local"),
        ("100.64.0.1", "shared by a provider's customers"),
        ("100.100.100.200", "shared by a provider's customers"),
        ("168.63.129.16", "a cloud's own service"),
        ("192.0.0.192", "reserved"),
        ("192.0.2.1", "for documentation"),
        ("198.18.0.1", "for benchmarks"),
        ("203.0.113.7", "for documentation"),
        ("224.0.0.1", "multicast"),
        ("239.255.255.250", "multicast"),
        ("240.0.0.1", "reserved"),
        ("255.255.255.255", "reserved"),
        ("::", "unspecified"),
        ("::1", "loopback"),
        ("fc00::1", "private"),
        ("fd00:ec2::254", "private"),
        ("fe80::1", "link-local"),
        ("fe80::1%lo", "link-local"),
        ("fec0::1", "private"),
        ("ff02::1", "multicast"),
        ("2001:db8::1", "for documentation"),
        ("2001::1", "reserved"),
        ("4000::1", "reserved"),
        ("::127.0.0.1", "reserved"),
        ("::ffff:127.0.0.1", "loopback"),
        ("::ffff:a9fe:a9fe", "link-local"),
        ("::ffff:0:127.0.0.1", "reserved"),
        ("64:ff9b::10.0.0.1", "private"),
        ("64:ff9b::169.254.169.254", "link-local"),
        ("64:ff9b:1::1", "private"),
        ("2002:7f00:1::1", "loopback"),
        ("2002:a9fe:a9fe::", "link-local"),
        ("2002:c0a8:101::", "private"),
    ],
)
def test_an_address_that_is_not_public_is_refused(address: str, reason: str) -> None:
    assert find_refusal(ipaddress.ip_address(address), allowed=NOBODY) == reason
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(BadWebhookUrl):
        parse_target(f"https://{host}/", allowed=NOBODY)


@pytest.mark.parametrize(
    "address",
    ["1.1.1.1", "172.15.0.1", "172.32.0.1", "100.63.0.1", "100.128.0.1", "2606:4700:4700::1111", "64:ff9b::1.1.1.1"],
)
def test_a_public_address_is_not_refused(address: str) -> None:
    assert find_refusal(ipaddress.ip_address(address), allowed=NOBODY) is None


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://hooks.example.com/", "use https"),
        ("ftp://hooks.example.com/", "use https"),
        ("file:///etc/passwd", "use https"),
        ("gopher://hooks.example.com/", "use https"),
        ("https:hooks.example.com", "use https"),
        ("//hooks.example.com", "use https"),
        ("hooks.example.com", "use https"),
        ("", "printable"),
        ("https://", "host"),
        ("https:///path", "host"),
        ("https://user@hooks.example.com/", "user or password"),
        ("https://user:pass@hooks.example.com/", "user or password"),
        ("https://hooks.example.com@127.0.0.1/", "user or password"),
        ("https://hooks.example.com/#top", "fragment"),
        ("https://hooks.example.com/#", "fragment"),
        ("https://hooks.example.com/\r\nhost: x", "printable"),
        ("https://hooks.example.com/\t", "printable"),
        ("https://hooks.example.com/a b", "printable"),
        ("https://hooks.example.com/\0", "printable"),
        ("https://hooks.example.com\\@127.0.0.1/", "backslash"),
        ("https://höoks.example.com/", "printable"),
        ("https://hooks.example.com/ü", "printable"),
        ("https://hooks.example.com:0/", "port"),
        ("https://hooks.example.com:/", "port"),
        ("https://hooks.example.com:65536/", "port"),
        ("https://hooks.example.com:8x/", "port"),
        ("https://hooks..example.com/", "host name"),
        ("https://-x.example.com/", "host name"),
        ("https://%6cocalhost/", "host name"),
        ("https://a,b/", "host name"),
        ("https://" + "a" * 64 + ".example.com/", "host name"),
        ("https://" + "a." * 130 + "example.com/", "host name"),
        ("https://127.1/", "four decimal numbers"),
        ("https://2130706433/", "four decimal numbers"),
        ("https://0x7f000001/", "four decimal numbers"),
        ("https://0x7f.0.0.0x1/", "four decimal numbers"),
        ("https://0177.0.0.1/", "four decimal numbers"),
        ("https://127.0.0.1./", "loopback"),
        ("https://[::1]/", "loopback"),
        ("https://[::1/", "no URL"),
        ("https://[fe80::1%25lo]/", "brackets"),
        ("https://[hooks.example.com]/", "URL|brackets"),
        ("https://localhost/", "localhost"),
        ("https://LOCALHOST./", "localhost"),
        ("https://api.localhost/", "localhost"),
        ("https://hooks.example.com/" + "a" * MAX_URL_CHARS, "characters"),
    ],
)
def test_a_url_that_cannot_be_a_receivers_is_refused_with_the_reason(url: str, reason: str) -> None:
    with pytest.raises(BadWebhookUrl, match=reason):
        parse_target(url, allowed=NOBODY)


@pytest.mark.parametrize(
    ("url", "host", "port", "request_target", "host_header"),
    [
        ("https://hooks.example.com", "hooks.example.com", 443, "/", "hooks.example.com"),
        ("HTTPS://Hooks.Example.COM.:443/a", "hooks.example.com", 443, "/a", "hooks.example.com"),
        ("https://hooks.example.com:8443/a;b?c=d&e", "hooks.example.com", 8443, "/a;b?c=d&e", "hooks.example.com:8443"),
        ("https://hooks.example.com?x=1", "hooks.example.com", 443, "/?x=1", "hooks.example.com"),
        ("https://xn--hks-5qa.example/%0d%0a", "xn--hks-5qa.example", 443, "/%0d%0a", "xn--hks-5qa.example"),
        ("https://1.1.1.1/", "1.1.1.1", 443, "/", "1.1.1.1"),
        ("https://[2606:4700::1111]:99/", "2606:4700::1111", 99, "/", "[2606:4700::1111]:99"),
    ],
)
def test_a_public_url_is_taken_apart(url: str, host: str, port: int, request_target: str, host_header: str) -> None:
    target = parse_target(url, allowed=NOBODY)
    assert (target.is_tls, target.host, target.port) == (True, host, port)
    assert (target.request_target, target.host_header) == (request_target, host_header)


@pytest.mark.parametrize(
    ("url", "is_taken"),
    [
        ("http://ci.internal:8080/", True),
        ("http://CI.internal./", True),
        ("https://ci.internal/", True),
        ("http://10.1.2.3/", True),
        ("http://[fd00::5]/", True),
        ("https://10.1.2.3/", True),
        ("http://other.internal/", False),
        ("http://ci.internal.example.com/", False),
        ("http://11.1.2.3/", False),
        ("https://192.168.0.1/", False),
        ("http://1.1.1.1/", False),
        ("http://[::ffff:10.1.2.3]/", True),
    ],
)
def test_hosts_that_the_installation_names_may_be_private_and_plain(url: str, is_taken: bool) -> None:
    allowed = AllowedHosts.parse(("CI.internal", "10.0.0.0/8", "fd00::5"))
    if is_taken:
        parse_target(url, allowed=allowed)
    else:
        with pytest.raises(BadWebhookUrl):
            parse_target(url, allowed=allowed)


def test_allowed_hosts_are_read_from_the_settings() -> None:
    settings = Settings(webhook_allowed_hosts=" ci.internal, 10.0.0.0/8 ,[fd00::5]")
    assert settings.webhook_allowed_hosts == ("ci.internal", "10.0.0.0/8", "[fd00::5]")
    allowed = AllowedHosts.parse(settings.webhook_allowed_hosts)
    assert (len(allowed.names), len(allowed.networks)) == (1, 2)
    assert Settings(webhook_allowed_hosts="").webhook_allowed_hosts == ()


@pytest.mark.parametrize("entry", ["10.0.0.0/33", "http://ci.internal", "ci.internal:80", "300.0.0.1", "*"])
def test_what_is_no_host_stops_the_start_by_the_settings_name(entry: str) -> None:
    with pytest.raises(ValidationError, match="webhook_allowed_hosts"):
        Settings(webhook_allowed_hosts=entry)
