"""What is no proper HTTP is refused before anything of it is believed, and a connection cannot be held for nothing."""

import socket
import time
from urllib.parse import urlsplit

import pytest

from app import http_protocol
from app.api import body_limit, schemas
from tests.support.hostile import count_open_files, send_raw

BODY = b'{"config": {}}'
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
SMUGGLED = b"0\r\n\r\nGET /livez HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(scope="module")
def wire(hostile_server):
    """Port, and the head of a request with a key and a body, without its last line."""
    with hostile_server.make_client("ana") as client:
        key = client.headers["authorization"].encode()
    head = b"Host: x\r\nAuthorization: %b\r\nContent-Type: application/json\r\nConnection: close\r\n" % key
    return urlsplit(hostile_server.url).port, head


AMBIGUOUS = [
    (b"Content-Length: 5\r\n" + CHUNKED + SMUGGLED, "one reader stops at the length, the other at the chunk"),
    (b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n" + SMUGGLED, "the same the other way round"),
    (b"Content-Length: 14\r\nContent-Length: 5\r\n\r\n" + BODY, "two lengths"),
    (b"Content-Length: 14\r\nContent-Length: 14\r\n\r\n" + BODY, "two lengths, though equal"),
    (b"Content-Length: 14, 14\r\n\r\n" + BODY, "a list of lengths"),
    (b"Content-Length: +14\r\n\r\n" + BODY, "a sign"),
    (b"Content-Length: -1\r\n\r\n" + BODY, "a negative length"),
    (b"Content-Length: 0x0e\r\n\r\n" + BODY, "a length in base 16"),
    (b"Content-Length: 99999999999999999999999\r\n\r\n" + BODY, "a length beyond 64 bits"),
    (b"Content-Length : 14\r\n\r\n" + BODY, "a space before the colon"),
    (b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", "the same for the encoding"),
    (b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", "an encoding that only looks like one"),
    (b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "compressed below the chunks"),
    (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", "two encodings"),
    (b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", "a blank that is none"),
    (CHUNKED + b"0xe\r\n" + BODY + b"\r\n0\r\n\r\n", "a chunk's size with a prefix"),
    (CHUNKED + b"-e\r\n" + BODY + b"\r\n0\r\n\r\n", "a negative chunk"),
    (CHUNKED + b"fffffffffffffffff\r\n" + BODY + b"\r\n0\r\n\r\n", "a chunk beyond 64 bits"),
    (CHUNKED + b"e\n" + BODY + b"\n0\n\n", "bare line feeds between chunks"),
    (CHUNKED + b"e;a\nb\r\n" + BODY + b"\r\n0\r\n\r\n", "a line feed within a chunk's extension"),
    (CHUNKED + b"5\r\n" + BODY + b"\r\n0\r\n\r\n", "a chunk longer than its size"),
    (b"X-A: a\r\n b: c\r\n\r\n", "a folded header"),
    (b"no colon\r\n\r\n", "a header without a name"),
    (b"X: a\0b\r\n\r\n", "NUL within a header"),
    (b"X: a\rX-Request-Id: forged\r\n\r\n", "a bare carriage return"),
    (b"Idempotency-Key: a\nX: b\r\n\r\n", "a bare line feed"),
    (b"Host: y\r\n\r\n", "two hosts"),
    (b"Authorization: Bearer fsk_other\r\n\r\n", "two keys"),
    (b"Content-Type: text/plain\r\n\r\n", "two content types"),
]


@pytest.mark.parametrize(("rest", "reason"), AMBIGUOUS, ids=[reason for _, reason in AMBIGUOUS])
def test_what_could_be_read_in_two_ways_is_read_in_none(wire, rest, reason):
    port, head = wire
    answer = send_raw(port, b"POST /v1/jobs/validate HTTP/1.1\r\n" + head + rest)
    assert answer.status == 400, answer.content
    assert answer.num_answers == 1, "the smuggled request was answered"
    schemas.ErrorBody.model_validate_json(answer.body)


LINES = [
    (b"GET /livez HTTP/1.1\r\nConnection: close\r\n\r\n", 400, "no host"),
    (b"GET /livez\r\n\r\n", 400, "HTTP/0.9"),
    (b"GET /livez HTTP/3.7\r\nHost: x\r\n\r\n", 400, "a version of its own"),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "HTTP/2 without having asked"),
    (b"FOO /livez HTTP/1.1\r\nHost: x\r\n\r\n", 400, "a method of its own"),
    (b"GET /livez\0 HTTP/1.1\r\nHost: x\r\n\r\n", 400, "NUL in the target"),
    (b"GET /\xc3\xa9 HTTP/1.1\r\nHost: x\r\n\r\n", 400, "a target that is not ASCII"),
    (b"CONNECT evil:80 HTTP/1.1\r\nHost: x\r\n\r\n", 400, "a tunnel"),
    (b"GET /livez HTTP/1.1\nHost: x\n\n", 400, "bare line feeds"),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 200, 400, "a TLS handshake"),
    (b"GET http://evil/v1/jobs HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 401, "an absolute target"),
    (b"GET http://evil/livez/../v1/jobs HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 401, "one that climbs"),
    (b"GET http:///v1/jobs HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 400, "one without a host"),
    (b"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 401, "the whole server"),
    (b"TRACE /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 405, "an echo"),
    (b"GET /livez?" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431, "a target of 100 kB"),
    (b"GET /livez HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 2_000 + b"\r\n", 431, "2,000 headers"),
    (b"GET /livez HTTP/1.1\r\nHost: x\r\n" + b"y" * 100_000, 431, "a header's name that does not end"),
    (b"GET /" + b"y" * 100_000, 431, "a request line that does not end"),
    (b"GET /livez HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 40_000 + b"\r\nConnection: close\r\n\r\n", 200, "a large one"),
]


@pytest.mark.parametrize(("content", "status", "reason"), LINES, ids=[reason for _, _, reason in LINES])
def test_a_head_that_is_odd_is_answered_in_our_shape(wire, content, status, reason):
    answer = send_raw(wire[0], content)
    assert answer.status == status, answer.content[:300]
    if status >= 400:
        schemas.ErrorBody.model_validate_json(answer.body)


def test_a_header_that_does_not_end_is_cut_off(wire):
    answer = send_raw(wire[0], b"GET /livez HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 50_000_000)
    # A client that writes on and on may find the connection reset instead of the answer.
    assert answer.status in {431, 0}


def test_a_trailer_is_no_header(wire):
    port, head = wire
    head = head.replace(b"Connection: close", b"X: y")
    chunks = CHUNKED + b"e\r\n" + BODY + b"\r\n0\r\nAuthorization: Bearer fsk_other\r\nHost: y\r\n\r\n"
    after = b"GET /v1/jobs HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer = send_raw(port, b"POST /v1/jobs/validate HTTP/1.1\r\n" + head + chunks + after)
    assert answer.content.count(b"HTTP/1.1 200 OK") == 1
    assert answer.content.count(b"HTTP/1.1 401 Unauthorized") == 1, "the next request has no key"


def test_a_request_behind_a_refused_one_is_not_looked_at(wire):
    port, head = wire
    bad = b"POST /v1/jobs/validate HTTP/1.1\r\n" + head + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n"
    answer = send_raw(port, bad + b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.num_answers == 1


def test_pipelined_requests_are_answered_in_their_order(wire):
    one = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /v1/nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer = send_raw(wire[0], one * 20 + last)
    assert answer.content.count(b"HTTP/1.1 200 OK") == 20
    assert answer.content.rindex(b"HTTP/1.1 401") > answer.content.rindex(b"HTTP/1.1 200")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("begin", "drip", "longest_seconds"),
    [
        (b"", b"", http_protocol.HEAD_SECONDS),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\nX: ", b"y", http_protocol.HEAD_SECONDS),
        (b"POST /v1/jobs/validate HTTP/1.1\r\n%bContent-Length: 5000\r\n\r\n", b" ", body_limit.BODY_GRACE_SECONDS),
        (b"POST /v1/jobs/validate HTTP/1.1\r\n%b" + CHUNKED, b"1\r\n \r\n", body_limit.BODY_GRACE_SECONDS),
        (b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n", b" ", http_protocol.LINGER_SECONDS),
    ],
    ids=["silence", "a head byte by byte", "a body byte by byte", "chunks byte by byte", "a body after its answer"],
)
def test_a_slow_client_is_cut_off(wire, begin, drip, longest_seconds):
    port, head = wire
    started = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=0.5) as connection:
        connection.sendall(begin.replace(b"%b", head.replace(b"Connection: close\r\n", b"")))
        is_open = True
        while is_open and time.monotonic() - started < longest_seconds + 10:
            try:
                connection.sendall(drip)
                is_open = connection.recv(65536) != b""
            except TimeoutError:
                pass
            except OSError:
                is_open = False
    assert not is_open
    assert time.monotonic() - started > longest_seconds / 2


@pytest.mark.slow
def test_many_slow_clients_do_not_keep_others_out(wire, hostile_server):
    port = wire[0]
    before = count_open_files(hostile_server.process.pid)
    sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(400)]
    for connection in sockets:
        connection.sendall(b"GET /livez HTTP/1.1\r\nX: ")
    fast = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert max(send_raw(port, fast).seconds for _ in range(20)) < 1.0
    deadline = time.monotonic() + http_protocol.HEAD_SECONDS + 10
    for connection in sockets:
        connection.settimeout(max(deadline - time.monotonic(), 0.1))
        while connection.recv(65536):
            pass
        connection.close()
    assert send_raw(port, fast).status == 200
    assert count_open_files(hostile_server.process.pid) <= before + 2
