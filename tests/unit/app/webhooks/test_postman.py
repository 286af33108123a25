"""Messages on the wire: to the address that was checked and no other, within their time, with nothing followed."""

import datetime
import ipaddress
import json
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from app.webhooks.addresses import AllowedHosts
from app.webhooks.connecting import Connector
from app.webhooks.errors import SendFailed
from app.webhooks.exchange import MAX_ANSWER_BYTES
from app.webhooks.postman import Postman
from app.webhooks.signing import SigningSecrets, make_secret, sign
from app.webhooks.views import Answer, ClaimedMessage
from tests.support.webhook_receiver import WAIT_SECONDS, run_raw_server, run_receiver

SECRET = make_secret()
PAYLOAD = json.dumps({"type": "webhook.test", "data": {"name": "Ünïcode"}}, ensure_ascii=False)
LOOPBACK = AllowedHosts.parse(["127.0.0.1"])
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


def make_message(url: str) -> ClaimedMessage:
    return ClaimedMessage(
        id="msg-1",
        webhook_id="webhook-1",
        owner="ann",
        url=url,
        payload=PAYLOAD,
        tries=1,
        claimed_until=0.0,
        now=time.time(),
        secrets=SigningSecrets(SECRET),
    )


def send(
    url: str,
    *,
    allowed: AllowedHosts = LOOPBACK,
    resolve: Callable[[str, int], Sequence[str]] | None = None,
    tls: ssl.SSLContext | None = None,
    connect_seconds: float = 5.0,
    total_seconds: float = 10.0,
) -> Answer:
    options = {} if resolve is None else {"resolve": resolve}
    connector = Connector(allowed, connect_seconds=connect_seconds, tls=tls, **options)
    return Postman(allowed, connector=connector, total_seconds=total_seconds).send(make_message(url))


def read_request(connection: socket.socket) -> bytes:
    data = b""
    while PAYLOAD.encode() not in data:
        chunk = connection.recv(65536)
        assert chunk
        data += chunk
    return data


def answering(*pieces: bytes) -> Callable[[socket.socket], None]:
    """Reads the request, sends these bytes, hangs up."""

    def handle(connection: socket.socket) -> None:
        read_request(connection)
        for piece in pieces:
            connection.sendall(piece)

    return handle


def test_a_message_arrives_whole_and_signed() -> None:
    with run_receiver() as receiver:
        answer = send(f"{receiver.url}?a=b")
        received = receiver.wait()
    assert answer.status == 204
    assert (received.path, received.body) == ("/hook?a=b", PAYLOAD.encode())
    headers = received.headers
    timestamp = int(headers["webhook-timestamp"])
    assert abs(time.time() - timestamp) < 60
    assert headers["webhook-signature"] == sign(SECRET, "msg-1", timestamp=timestamp, body=PAYLOAD)
    assert headers["webhook-id"] == "msg-1"
    assert headers["host"] == receiver.url.split("/")[2]
    assert set(headers) == {
        *("host", "content-type", "content-length", "connection", "user-agent"),
        *("webhook-id", "webhook-timestamp", "webhook-signature"),
    }


def test_a_redirect_is_not_followed() -> None:
    with run_receiver() as target, run_receiver() as receiver:
        receiver.answers.put((307, {"location": target.url}))
        assert send(receiver.url).status == 307
        assert target.received.empty()


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with run_receiver() as proxy, run_receiver() as receiver:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        assert send(receiver.url).is_success
        assert proxy.received.empty()


@pytest.mark.parametrize(
    ("addresses", "reason"),
    [
        (["127.0.0.1"], "loopback"),
        (["169.254.169.254"], "link-local"),
        (["1.1.1.1", "10.0.0.1"], "private"),
        (["::1"], "loopback"),
        (["::ffff:127.0.0.1"], "loopback"),
        (["2606:4700:4700::1111", "64:ff9b::7f00:1"], "loopback"),
    ],
)
def test_a_name_with_any_address_that_is_not_public_is_not_called(addresses: list[str], reason: str) -> None:
    with pytest.raises(SendFailed, match=reason) as refused:
        send("https://hooks.example.com/", allowed=AllowedHosts(), resolve=lambda host, port: addresses)
    # What lies in the service's network is not told.
    assert not any(address in str(refused.value) for address in addresses)


def test_a_name_that_changes_its_address_after_the_check_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: the first answer is public, every later one is loopback."""
    asked: list[str] = []
    called: list[object] = []

    def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["192.88.98.1"] if len(asked) == 1 else ["127.0.0.1"]

    class Recorder(socket.socket):
        def connect(self, address: object) -> None:
            called.append(address)
            raise ConnectionRefusedError

    # Only the system's connect is replaced: nothing may leave this machine in a test.
    monkeypatch.setattr("app.webhooks.connecting.socket.socket", Recorder)
    with pytest.raises(SendFailed, match="refused"):
        send("https://hooks.example.com:8443/", allowed=AllowedHosts(), resolve=resolve)
    assert (asked, called) == (["hooks.example.com"], [("192.88.98.1", 8443)])


def test_an_address_that_is_allowed_is_reached_by_any_name_and_others_are_not() -> None:
    with run_raw_server(answering(OK)) as port:
        named = AllowedHosts.parse(["ci.internal"])
        assert send(f"http://ci.internal:{port}/", allowed=named, resolve=lambda *_: ["127.0.0.1"]).is_success
        with pytest.raises(SendFailed, match="use https"):
            send(f"http://other.internal:{port}/", allowed=named, resolve=lambda *_: ["127.0.0.1"])
        # The second address answers when the first does not.
        both = ["127.0.0.2", "127.0.0.1"]
        assert send(f"http://ci.internal:{port}/", allowed=named, resolve=lambda *_: both).is_success


def test_a_setting_that_was_narrowed_counts_for_webhooks_that_are_there() -> None:
    with run_receiver() as receiver:
        with pytest.raises(SendFailed):
            send(receiver.url, allowed=AllowedHosts())
        assert receiver.received.empty()


@pytest.mark.parametrize(
    ("pieces", "status"),
    [
        ((b"HTTP/1.1 200 OK\r\n\r\n",), 200),
        ((b"HTTP/1.0 202 \r\n\r\nbody",), 202),
        ((b"HTTP/1.1 299\r\nx: y\r\n\r\n",), 299),
        ((b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n", OK), 200),
        ((b"HTTP/1.1 5", b"03 Busy\r\nRetry-", b"After: 9\r\n\r", b"\n"), 503),
        ((b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"fffffff\r\n" + b"x" * (1 << 20)), 200),
        ((b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n",), 200),
        ((b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",), 200),
    ],
)
def test_an_answer_is_read_to_the_end_of_its_head(pieces: tuple[bytes, ...], status: int) -> None:
    with run_raw_server(answering(*pieces)) as port:
        answer = send(f"http://127.0.0.1:{port}/")
    assert answer.status == status
    assert answer.headers.get("retry-after") == ("9" if status == 503 else None)


@pytest.mark.parametrize(
    ("pieces", "reason"),
    [
        ((), "closed"),
        ((b"HTTP/1.1 200 OK\r\nx: y\r\n",), "closed"),
        ((b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * MAX_ANSWER_BYTES,), "closed|broke"),
        ((b"HTTP/1.1 100 Continue\r\n\r\n" * MAX_ANSWER_BYTES,), "closed|broke"),
        ((b"HTTP/2 200\r\n\r\n",), "not HTTP/1.1"),
        ((b"HTTP/1.1 999 ?\r\n\r\n",), "not HTTP/1.1"),
        ((b"SSH-2.0-OpenSSH\r\n\r\n",), "not HTTP/1.1"),
        ((b"\0\xff\r\n\r\n",), "not HTTP/1.1"),
    ],
)
def test_what_is_no_whole_answer_is_a_failure(pieces: tuple[bytes, ...], reason: str) -> None:
    with run_raw_server(answering(*pieces)) as port, pytest.raises(SendFailed, match=reason):
        send(f"http://127.0.0.1:{port}/")


def trickle(connection: socket.socket, head: bytes) -> None:
    """A byte now and then, for ever: each read of the sender succeeds in time."""
    read_request(connection)
    connection.sendall(head)
    hung_up = threading.Event()
    connection.settimeout(0)
    while not hung_up.wait(0.02):
        connection.send(b"x")


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\nx: "])
def test_a_receiver_that_trickles_its_answer_is_cut_off_at_the_total_time(head: bytes) -> None:
    started = time.monotonic()
    with (
        run_raw_server(lambda connection: trickle(connection, head)) as port,
        pytest.raises(SendFailed, match=r"0\.4 s"),
    ):
        send(f"http://127.0.0.1:{port}/", total_seconds=0.4)
    assert time.monotonic() - started < 3


def test_a_body_that_trickles_does_not_undo_the_status() -> None:
    started = time.monotonic()
    with run_raw_server(lambda connection: trickle(connection, b"HTTP/1.1 200 OK\r\n\r\n")) as port:
        assert send(f"http://127.0.0.1:{port}/", total_seconds=0.4).is_success
    assert time.monotonic() - started < 3


def test_a_receiver_that_says_nothing_and_one_that_cannot_be_reached_fail_in_time() -> None:
    released = threading.Event()
    with run_raw_server(lambda connection: released.wait(WAIT_SECONDS) or None) as port:
        with pytest.raises(SendFailed, match=r"0\.3 s"):
            send(f"http://127.0.0.1:{port}/", total_seconds=0.3)
        # The same silence within the TLS handshake.
        with pytest.raises(SendFailed, match=r"no connection within 0\.3 s"):
            send(f"https://127.0.0.1:{port}/", connect_seconds=0.3)
        released.set()
    with pytest.raises(SendFailed, match="refused"):
        send(f"http://127.0.0.1:{port}/")


def test_a_resolver_that_hangs_or_fails_is_a_failure_in_time() -> None:
    released = threading.Event()

    def hang(host: str, port: int) -> list[str]:
        released.wait(WAIT_SECONDS)
        return []

    def fail(host: str, port: int) -> list[str]:
        raise socket.gaierror(-2, "Name or service not known")

    with pytest.raises(SendFailed, match=r"no connection within 0\.2 s"):
        send("https://hooks.example.com/", resolve=hang, connect_seconds=0.2)
    released.set()
    for resolve in (fail, lambda host, port: []):
        with pytest.raises(SendFailed, match="not known"):
            send("https://hooks.example.com/", resolve=resolve)


def make_certificate(folder: Path, name: str) -> tuple[Path, ssl.SSLContext]:
    """A certificate for this name that signs itself, and a server's context with it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    try:
        alternative: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        alternative = x509.DNSName(name)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / f"{name}.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return path, context


def test_tls_names_the_host_and_checks_its_certificate(tmp_path: Path) -> None:
    path, context = make_certificate(tmp_path, "hooks.example.com")
    names: queue.Queue[str | None] = queue.Queue()
    context.sni_callback = lambda _socket, name, _context: names.put(name)
    requests: queue.Queue[bytes] = queue.Queue()
    asked: list[str] = []

    def resolve(host: str, _port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"]

    def handle(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as encrypted:
            requests.put(read_request(encrypted))
            encrypted.sendall(OK)

    trusting = ssl.create_default_context(cafile=path)
    allowed = AllowedHosts.parse(["127.0.0.0/8"])
    with run_raw_server(handle) as port:

        def call(host: str, tls: ssl.SSLContext | None) -> Answer:
            return send(f"https://{host}:{port}/", allowed=allowed, tls=tls, resolve=resolve)

        assert call("hooks.example.com", trusting).is_success
        assert names.get(timeout=WAIT_SECONDS) == "hooks.example.com"
        assert asked == ["hooks.example.com"]
        assert f"host: hooks.example.com:{port}\r\n".encode() in requests.get(timeout=WAIT_SECONDS)
        for host, tls in (("other.example.com", trusting), ("hooks.example.com", None), ("127.0.0.1", trusting)):
            with pytest.raises(SendFailed, match="certificate is not valid"):
                call(host, tls)
        assert requests.empty()


def test_a_message_whose_secret_is_lost_is_not_sent() -> None:
    with run_receiver() as receiver:
        postman = Postman(LOOPBACK, connector=Connector(LOOPBACK))
        message = make_message(receiver.url)
        unreadable = ClaimedMessage(
            **{name: getattr(message, name) for name in message.__dataclass_fields__ if name != "secrets"}, secrets=None
        )
        with pytest.raises(SendFailed, match="rotate"):
            postman.send(unreadable)
        assert receiver.received.empty()
