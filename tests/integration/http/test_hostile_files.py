"""Uploads, names of files and paths as attackers write them, and reads that ask for more than there is."""

import json
import os
import re

import pytest

from tests.support.hostile import check_harmless

LINES = b'{"text": "a"}\n{"text": "b"}\n'
FORM = {"content-type": "multipart/form-data; boundary=b"}
FILE = b'Content-Disposition: form-data; name="file"; filename="a.jsonl"'
PURPOSE = b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
END = b"--b--\r\n"


@pytest.fixture(scope="module")
def client(hostile_server):
    with hostile_server.make_client("ana") as client:
        yield client


@pytest.fixture(scope="module")
def artifact_url(hostile_server, client):
    """Artifacts of a job that has one, `fused/config.json`."""
    job = hostile_server.start_job(client)
    job.publish("fused/config.json", LINES)
    return f"/v1/jobs/{job.id}/artifacts"


def part(head: bytes, content: bytes = LINES) -> bytes:
    return b"--b\r\n" + head + b"\r\n\r\n" + content + b"\r\n"


UPLOADS = [
    (part(FILE), {400, 422}, "no end"),
    (part(FILE)[:60], {400, 422}, "cut off within a head"),
    (part(FILE)[:90], {400, 422}, "cut off within the content"),
    (END, {422}, "no parts"),
    (b"", {400, 422}, "nothing"),
    (b"garbage", {400, 422}, "no boundary in it"),
    (part(b'Content-Disposition: form-data; name="file"') + END, {422}, "no filename: a field, no file"),
    (part(b'Content-Disposition: form-data; filename="a"') + END, {400, 422}, "a file without a name"),
    (part(b"Content-Disposition: form-data") + END, {400, 422}, "a part without a name"),
    (part(b"X: y") + END, {400, 422}, "a part without a disposition"),
    (part(FILE) + part(FILE) + END, {201}, "two files: one of them is taken"),
    (part(FILE) + PURPOSE * 2 + END, {201, 400, 422}, "a field twice"),
    (part(FILE) + PURPOSE * 2_000 + END, {400}, "2,000 fields"),
    (part(FILE) * 2_000 + END, {400}, "2,000 files"),
    (part(FILE + b"\r\nX: " + b"y" * 200_000) + END, {400}, "a part's header of 200 kB"),
    (part(FILE + b"\r\nX: y" * 20_000) + END, {400}, "a part of 20,000 headers"),
    (part(b'Content-Disposition: form-data; name="' + b"n" * 100_000 + b'"') + END, {400, 422}, "a long name"),
    (PURPOSE.replace(b"fine-tune", b"x" * 2_000_000) + part(FILE) + END, {400, 422}, "a field of 2 MB"),
    (part(FILE + b"\r\nContent-Encoding: gzip", b"\x1f\x8b" + b"\0" * 100) + END, {422}, "a compressed part"),
    (part(FILE + b"\r\nContent-Transfer-Encoding: base64") + END, {201}, "an encoding that nobody applies"),
    (part(FILE, b"PK\x03\x04" + b"\0" * 1000) + END, {422}, "a zip archive"),
    (part(FILE, b"\x80\x04c__builtin__\neval\n") + END, {422}, "a pickle"),
    (part(FILE, b"\xff\xfe{\0}\0") + END, {422}, "UTF-16"),
    (part(FILE, b'{"a": ' + b"[" * 100_000 + b"}") + END, {422}, "a line that nests without an end"),
    (part(FILE, b'{"a": ' + b"9" * 100_000 + b"}") + END, {422}, "an integer of 100,000 digits"),
    (part(FILE, b'{"a": 1e999999}') + END, {201, 422}, "a number beyond every float"),
    (part(FILE, b'{"a": "\\ud800"}') + END, {422}, "half of a surrogate pair"),
    (part(FILE, b'{"a": "\\u0000", "\\u0000": 1}') + END, {201, 422}, "NUL in a key"),
    (part(FILE, b"\n" * 1_000_000) + END, {422}, "a million blank lines"),
    (part(FILE, b"x\n" * 1_000_000) + END, {422}, "a million lines that are none"),
    (part(FILE, b"{" + b",".join(b'"%d":1' % i for i in range(100_000)) + b"}") + END, {201, 422}, "100,000 keys"),
    (part(FILE, b" " * (5 << 20)) + END, {413}, "more than is allowed"),
]


@pytest.mark.parametrize(("content", "statuses", "reason"), UPLOADS, ids=[reason for _, _, reason in UPLOADS])
def test_an_odd_upload_is_taken_or_refused(client, hostile_server, content, statuses, reason):
    before = list_stored(hostile_server)
    answer = client.post("/v1/files", content=content, headers=FORM)
    check_harmless(answer)
    assert answer.status_code in statuses, answer.text[:300]
    is_stored = answer.status_code == 201
    assert len(list_stored(hostile_server)) == len(before) + is_stored, "of a file that is refused nothing is left"


def list_stored(server):
    return sorted((server.settings.data_dir / "storage" / "files").glob("*"))


BOUNDARIES = [
    ("multipart/form-data", "none"),
    ("multipart/form-data; boundary=", "an empty one"),
    ('multipart/form-data; boundary="b', "a quote without an end"),
    ("multipart/form-data; boundary=" + "b" * 30_000, "one of 30,000 characters"),
    ("multipart/form-data; boundary=b; boundary=c", "two"),
    ("multipart/form-data; boundary=b\x01", "a control character"),
    ("multipart/mixed; boundary=b", "another kind"),
    ("application/x-www-form-urlencoded", "a form without files"),
    ("application/json", "JSON"),
    ("", "no type"),
]


@pytest.mark.parametrize(("content_type", "reason"), BOUNDARIES, ids=[reason for _, reason in BOUNDARIES])
def test_an_odd_boundary_is_refused(client, content_type, reason):
    answer = client.post("/v1/files", content=part(FILE) + END, headers={"content-type": content_type})
    check_harmless(answer)
    assert answer.status_code in {400, 422} or (answer.status_code == 201 and "boundary=b" in content_type)


FILENAMES = [
    (b'filename="../../etc/passwd"', "passwd", "a path"),
    (b'filename="..\\\\..\\\\boot.ini"', "boot.ini", "a path with backslashes"),
    (b'filename="/etc/shadow"', "shadow", "an absolute path"),
    (b'filename="C:\\\\x\\\\a.jsonl"', "a.jsonl", "a drive"),
    (b'filename=".."', None, "the folder above"),
    (b'filename="."', None, "this folder"),
    (b'filename="/"', None, "the root"),
    (b'filename=""', None, "nothing"),
    (b'filename="a\0.jsonl"', None, "NUL"),
    (b'filename="%2e%2e%2fa"', "%2e%2e%2fa", "a path, encoded"),
    (b'filename="%252e%252e%252fa"', "%252e%252e%252fa", "encoded twice"),
    (b'filename="\xc0\xae\xc0\xae\xc0\xafa"', None, "a path in overlong UTF-8"),
    (b'filename="a.jsonl\\"; filename=\\"b.html"', None, "a name within a name"),
    (b'filename="a"; filename="b"', None, "two names"),
    (b"filename*=utf-8''%2e%2e%2fa%0d%0aX-Forged%3a%201", None, "an encoded one with a line break"),
    (b"filename*=utf-16''%ff%fe", None, "an encoding of its own"),
    (b'filename="\xe2\x80\xaegpj.exe"', "\u202egpj.exe", "text that runs from right to left"),
    (b'filename="' + b"\xf0\x9f\x92\xa9" * 300 + b'"', "\U0001f4a9" * 255, "300 characters of four bytes"),
    (b'filename="<img src=x onerror=alert(1)>"', None, "a script"),
    (b'filename="a\x1b[2J"', None, "escape codes"),
    (b'filename="CON"', "CON", "a device of another system"),
    (b'filename="a\tb;c,d"', None, "separators"),
]


@pytest.mark.parametrize(("given", "kept", "reason"), FILENAMES, ids=[reason for _, _, reason in FILENAMES])
def test_a_filename_is_shown_and_never_a_path_or_a_header(client, hostile_server, given, kept, reason):
    head = b'Content-Disposition: form-data; name="file"; ' + given
    answer = client.post("/v1/files", content=part(head) + END, headers=FORM)
    check_harmless(answer)
    if answer.status_code != 201:
        assert answer.status_code in {400, 422}
        return
    file = answer.json()
    assert kept in (None, file["filename"])
    assert "/" not in file["filename"]
    assert "\\" not in file["filename"] or kept is None
    assert len(file["filename"]) <= 255
    content = client.get(f"/v1/files/{file['id']}/content")
    assert content.content == LINES
    assert re.fullmatch(r"attachment; filename\*=utf-8''[A-Za-z0-9_.%~-]+", content.headers["content-disposition"])
    assert "x-forged" not in content.headers
    assert content.headers["x-content-type-options"] == "nosniff"
    assert sorted(os.listdir(hostile_server.settings.data_dir / "storage")) in (["files"], ["files", "jobs"])
    assert client.delete(f"/v1/files/{file['id']}").status_code == 200


PATHS = [
    ("/..%2f..%2fsecret_key", "encoded"),
    ("/%2e%2e/%2e%2e/secret_key", "dots encoded"),
    ("/..%252f..%252fsecret_key", "encoded twice"),
    ("/..%5c..%5csecret_key", "backslashes"),
    ("/..%c0%af..%c0%afsecret_key", "overlong UTF-8"),
    ("/fused/config.json%00.txt", "NUL"),
    ("/fused%2fconfig.json%00", "NUL at the end"),
    ("/%2fetc%2fpasswd", "absolute"),
    ("//etc/passwd", "absolute by a double slash"),
    ("/fused/../fused/config.json", "a detour"),
    ("/fused/./config.json", "a dot"),
    ("/fused//config.json", "a double slash"),
    ("/FUSED/CONFIG.JSON", "capitals"),
    ("/fused/config.json/", "a slash at the end"),
    ("/fused/config.json%20", "a blank at the end"),
    ("/fused/c%EF%BD%8Fnfig.json", "a wide letter"),
    ("/" + "a/" * 400, "800 characters"),
    ("/" + "a" * 3000, "3,000 characters"),
    ("/file:%2f%2f%2fetc%2fpasswd", "a URL"),
    ("/%ff%fe", "no UTF-8"),
    ("/%ed%a0%80", "a surrogate"),
    ("/fused", "a folder"),
    ("/", "nothing"),
]


@pytest.mark.parametrize(("path", "reason"), PATHS, ids=[reason for _, reason in PATHS])
def test_a_path_finds_an_artifact_by_its_exact_name_or_nothing(client, artifact_url, path, reason):
    answer = client.get(artifact_url + path)
    check_harmless(answer)
    if answer.status_code == 200:
        # The client itself takes a detour out of a path before it sends it.
        assert reason in {"a detour", "a dot"}
        assert answer.content == LINES
    else:
        assert answer.status_code in {404, 422, 307}, answer.text


def test_a_link_within_the_storage_is_no_way_out(client, hostile_server, artifact_url):
    root = hostile_server.settings.data_dir / "storage" / artifact_url.removeprefix("/v1/")
    (root / "fused" / "link").symlink_to(hostile_server.settings.data_dir / "secret_key")
    (root / "up").symlink_to(hostile_server.settings.data_dir)
    for path in ("fused/link", "up/secret_key", "up"):
        assert client.get(f"{artifact_url}/{path}").status_code == 404
    assert [item["path"] for item in client.get(artifact_url).json()["data"]] == ["fused/config.json"]


RANGES = [
    ("bytes=" + ",".join(f"{i}-{i}" for i in range(5000)), {200}, "5,000 ranges"),
    ("bytes=0-,0-,0-,0-", {200}, "the whole four times"),
    ("bytes=-1-5", {200}, "a negative begin"),
    ("bytes=5-1", {200}, "an end before the begin"),
    ("bytes=0-99999999999999999", {206}, "an end far off"),
    ("bytes=99999999999999999-", {416}, "a begin far off"),
    ("bytes=0-99999999999999999999999999999", {200}, "beyond 64 bits"),
    ("bytes=" + "9" * 30_000 + "-", {200}, "30,000 digits"),
    ("bytes=-0", {416}, "the last nothing"),
    ("bytes=-99999999999999999", {206}, "more than there is from the end"),
    ("bytes=--1", {200}, "two signs"),
    ("bytes=\u0661-\u0662".encode(), {200}, "digits of another script"),
    ("lines=0-1", {200}, "another unit"),
    ("bytes=0x0-0x5", {200}, "base 16"),
    ("bytes=" + " " * 20_000 + "0-1", {200, 206}, "blanks"),
]


@pytest.mark.parametrize(("value", "statuses", "reason"), RANGES, ids=[reason for _, _, reason in RANGES])
def test_an_odd_range_costs_no_more_than_the_whole(client, artifact_url, value, statuses, reason):
    answer = client.get(f"{artifact_url}/fused/config.json", headers={"range": value})
    check_harmless(answer)
    assert answer.status_code in statuses
    assert len(answer.content) <= len(LINES) or answer.status_code == 416


@pytest.mark.parametrize("value", ["*" * 10_000, ",".join(['"x"'] * 10_000), '"' * 30_000, "W/" * 10_000, b"\xff" * 99])
def test_an_odd_condition_is_not_met(client, artifact_url, value):
    for name in ("if-none-match", "if-match", "if-range", "if-modified-since"):
        answer = client.get(f"{artifact_url}/fused/config.json", headers={name: value})
        check_harmless(answer)
        assert answer.content == LINES


def test_a_link_to_a_file_of_the_host_is_no_upload(client):
    """What a client sends is content; a name in it is never opened."""
    answer = client.post("/v1/files", json={"file": "/etc/passwd", "url": "file:///etc/passwd"})
    check_harmless(answer)
    assert (answer.status_code, json.loads(answer.content)["error"]["param"]) == (422, "file")


def test_private_answers_are_kept_by_nobody_and_shared_with_no_other_site(client, artifact_url):
    paths = [
        "/v1/jobs",
        "/v1/files",
        "/v1/config/schema",
        "/v1/nothing",
        artifact_url,
        f"{artifact_url}/fused/config.json",
    ]
    for path in paths:
        headers = {"origin": "https://evil.example", "access-control-request-method": "GET"}
        for method in ("GET", "OPTIONS"):
            answer = client.request(method, path, headers=headers)
            check_harmless(answer)
            assert not [name for name in answer.headers if name.startswith("access-control-")], path
            assert answer.headers["cache-control"] in {"no-store", "private, no-cache"}
            assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert answer.headers["cross-origin-resource-policy"] == "same-origin"
            assert "server" not in answer.headers
            assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "path", ["/", "/docs", "/docs?url=//evil.example/x.json", "/docs/?configUrl=//evil", "/static/style.css"]
)
def test_pages_are_shown_in_no_frame_and_take_nothing_from_their_address(client, path):
    answer = client.get(path)
    if answer.status_code != 200:
        return
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert "evil" not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] in {"no-cache", "public, no-cache"}
