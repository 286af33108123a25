"""Bodies, names and queries as attackers write them: refused in our shape or stored harmlessly, and never a failure."""

import gzip
import json
import re
import time
from urllib.parse import quote

import pytest

from tests.integration.http.conftest import MINIMAL_JOB
from tests.support.hostile import check_harmless

CONFIG = MINIMAL_JOB["config"]
JSON = {"content-type": "application/json"}
MEBIBYTE = 1 << 20


@pytest.fixture(scope="module")
def client(hostile_server):
    with hostile_server.make_client("ana") as client:
        yield client


def in_config(value: str) -> bytes:
    return b'{"config": {"dataset_key": "soda", "seed": ' + value.encode("utf-8", "surrogatepass") + b"}}"


BOMBS = [
    (b"[" * (MEBIBYTE - 1), {400}, "nesting without an end"),
    (b'{"config":' * 100_000, {400}, "objects without an end"),
    (b"[" * 10_000_000, {413}, "10 MB of brackets"),
    (in_config("[" * 100_000 + "]" * 100_000), {400}, "nesting that closes"),
    (in_config("[" * 400 + "]" * 400), {422}, "nesting that the parser takes"),
    (in_config("1e999999"), {422}, "a number beyond every float"),
    (in_config("-1e999999"), {422}, "the same below zero"),
    (in_config("9" * 100_000), {400, 422}, "an integer of 100,000 digits"),
    (in_config("9" * 4_000), {422}, "one that Python still reads"),
    (in_config("9223372036854775808"), {422}, "one beyond 64 bits"),
    (in_config("1." + "1" * 100_000), {422}, "a fraction of 100,000 digits"),
    (in_config("0e" + "9" * 1_000), {200}, "an exponent of 1,000 digits"),
    (in_config("NaN"), {422}, "not a number"),
    (in_config("-Infinity"), {422}, "infinity"),
    (in_config('"\\ud800"'), {422}, "half of a surrogate pair, escaped"),
    (in_config('"\ud800"'), {400, 422}, "the same, encoded"),
    (in_config('"\\u0000"'), {422}, "NUL"),
    (b'{"config": {}, "priority": 1, "priority": "x"}', {422}, "a key twice: the last one counts"),
    (b'{"config": {}, "name": "a", "name": "b"}', {200}, "the same, both right"),
    (b"\xef\xbb\xbf" + in_config("1"), {200, 400, 422}, "a byte order mark"),
    (in_config("1").decode().encode("utf-16"), {200, 400, 422}, "UTF-16"),
    (in_config("1").decode().encode("utf-32"), {200, 400, 422}, "UTF-32"),
    (in_config("1").decode().encode("utf-7") + b"+AAA-", {400, 422}, "UTF-7"),
    (b"\xc0\xae\xc0\xae", {400}, "overlong UTF-8"),
    (b'{"config": {"' + b"k" * 1_000_000 + b'": 1}}', {422}, "a key of a megabyte"),
    (json.dumps({"config": {f"k{i}": 1 for i in range(60_000)}}).encode(), {422}, "60,000 keys"),
    (json.dumps({"config": {f"{i:0200}": 1 for i in range(500)}}).encode(), {422}, "500 long keys"),
    (json.dumps({"config": CONFIG, **{f"k{i}": 1 for i in range(60_000)}}).encode(), {422}, "60,000 fields"),
    (json.dumps({"config": CONFIG, "steps": ["prepare"] * 80_000}).encode(), {422}, "80,000 steps"),
    (json.dumps({"config": CONFIG, "steps": ["x"] * 80_000}).encode(), {422}, "80,000 steps that are none"),
    (json.dumps({"config": CONFIG, "metadata": {f"k{i}": "v" for i in range(60_000)}}).encode(), {422}, "metadata"),
    (json.dumps({"config": {**CONFIG, "raw_lora_target_modules": "a," * 400_000}}).encode(), {200, 422}, "a list"),
    (
        json.dumps({"config": {**CONFIG, "raw_lora_target_modules": "re:" + "(a+)+" * 20 + "$"}}).encode(),
        {200, 422},
        "a regex",
    ),
    (b'{"config": {"__proto__": {"admin": true}, "constructor": {}}}', {422}, "prototype pollution"),
    (b'{"config": {"__class__": "x", "__init__": 1, "owner": "bob"}}', {422}, "attributes of objects"),
    (b'{"config": {}, "owner": "bob"}', {422}, "another owner"),
    (b'{"config": {}, "id": "job-1", "status": "succeeded"}', {422}, "fields that are answers"),
    (b"null", {422}, "null"),
    (b'"config"', {422}, "a string"),
    (b"\0" * 1000, {400}, "zeros"),
    (b'{"config": {}}{"config": {}}', {400}, "two bodies"),
]


@pytest.mark.parametrize(("content", "statuses", "reason"), BOMBS, ids=[reason for _, _, reason in BOMBS])
def test_a_bomb_of_a_body_goes_off_nowhere(client, content, statuses, reason):
    answer = client.post("/v1/jobs/validate", content=content, headers=JSON)
    check_harmless(answer)
    is_refused = answer.status_code == 200 and not answer.json()["valid"]
    assert answer.status_code in statuses or (is_refused and 422 in statuses), answer.text[:500]


BAD_NUMBERS = ["priority", "max_attempts", "max_runtime_seconds"]
NO_NUMBERS = [-(10**30), 10**30, 2**63, -(2**63) - 1, 1e308 * 10, "1", True, [], {}, "0x1", "١"]


@pytest.mark.parametrize("field", BAD_NUMBERS)
@pytest.mark.parametrize("value", NO_NUMBERS, ids=repr)
def test_a_number_that_is_none_or_too_large_is_refused_by_its_field(client, field, value):
    answer = client.post("/v1/jobs", content=json.dumps({"config": CONFIG, field: value}), headers=JSON)
    check_harmless(answer)
    if field == "max_runtime_seconds" and value in (10**30, 2**63):
        assert answer.status_code == 201, "a bound that no attempt reaches is no harm"
        return
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, field)


FORGED = '{"event": "request", "level": "info", "timestamp": "forged"}'
NAMES = [
    ("\u202egnp.exe", "text that runs from right to left"),
    ("a\u200bb\u200d\ufeff", "characters without a width"),
    ("e" + "\u0301" * 200, "a tower of accents"),
    ("раураl", "letters that look like others"),
    ("\r\nX-Forged: 1", "a line break"),
    (f"\n{FORGED}\n", "a line of a log"),
    ("\x1b[2J\x1b[31mred\x07", "a terminal's escape codes"),
    ("<script>alert(1)</script>", "a script"),
    ("'; DROP TABLE jobs; --", "SQL"),
    ("${jndi:ldap://127.0.0.1/a}{{7*7}}%s%n", "templates"),
    ("../../etc/passwd", "a path"),
    ("\U0001f4a9\uffff\u2028\u2029", "characters at the edge"),
    ("=cmd|' /C calc'!A0", "a formula"),
]


@pytest.mark.parametrize(("name", "reason"), NAMES, ids=[reason for _, reason in NAMES])
def test_a_name_comes_back_as_it_is_and_forges_nothing(client, hostile_server, name, reason):
    answer = client.post("/v1/jobs", json={"config": CONFIG, "name": name, "metadata": {name[:64]: name}})
    check_harmless(answer)
    assert answer.status_code == 201, answer.text
    job = answer.json()
    assert (job["name"], job["metadata"]) == (name, {name[:64]: name})
    assert answer.headers["content-type"] == "application/json"
    assert "x-forged" not in answer.headers
    # What is logged of a request: the path.
    client.get(f"/v1/{quote(name, safe='')}")
    log = (hostile_server.settings.data_dir / "api.log").read_text()
    assert "\x1b" not in log
    assert not [line for line in log.splitlines() if json.loads(line).get("timestamp") == "forged"]


@pytest.mark.parametrize("name", ["a\0b", "\0", "x" * 257, "", 7, ["a"]], ids=repr)
def test_a_name_that_cannot_be_stored_is_refused(client, name):
    answer = client.post("/v1/jobs", json={"config": CONFIG, "name": name})
    check_harmless(answer)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "name")


def test_half_a_surrogate_pair_in_a_name_is_refused(client):
    content = b'{"config": {"dataset_key": "soda"}, "name": "\\udfff", "metadata": {"\\ud800": "\\ud800"}}'
    answer = client.post("/v1/jobs", content=content, headers=JSON)
    check_harmless(answer)
    assert answer.status_code == 422


TARGETS = [
    ("http://169.254.169.254/latest/meta-data", "the cloud's own address"),
    ("http://127.0.0.1:6379/", "a service of this host"),
    ("file:///etc/passwd", "a file"),
    ("gopher://127.0.0.1:25/x", "another protocol"),
    ("//127.0.0.1/share", "a share"),
    ("s3://bucket/key", "a store"),
    ("hf://owner/name", "a file system of fsspec"),
    ("../../../etc", "a path"),
    ("/etc/passwd", "an absolute path"),
    ("local:../../etc", "a local name that climbs"),
    ("local:..", "the folder above"),
    ("local:/etc", "an absolute local name"),
    ("local:..\\..\\etc", "the same with backslashes"),
    ("local:a\0b", "NUL"),
    ("local:%2e%2e%2fetc", "a local name that climbs, encoded"),
    ("local:" + "a" * 5000, "a name longer than a file system takes"),
    ("owner/name@evil:80", "a host behind an at sign"),
    ("owner/name?x=1#y", "a query"),
    ("owner/../name", "a name that climbs"),
    ("owner\\name", "a backslash"),
    ("owner/name\n", "a line break at the end"),
    ("оwner/nаme", "letters that look like others"),
]
SOURCES = ["model_name_or_path", "tokenizer_name_or_path", "quantization_dataset_id", "deepspeed_config_path"]
SOURCES += ["lora_hub_model_id", "hub_model_id", "fused_hub_model_id", "quantized_hub_model_id"]


@pytest.mark.parametrize(("target", "reason"), TARGETS, ids=[reason for _, reason in TARGETS])
@pytest.mark.parametrize("field", SOURCES)
def test_no_source_of_a_config_names_a_host_or_a_path(client, field, target, reason):
    config = {**CONFIG, "deepspeed_stage": "0", field: target}
    answer = client.post(
        "/v1/jobs/validate", json={"config": config, "steps": ["prepare", "train", "fuse", "quantize"]}
    )
    check_harmless(answer)
    params = [problem["param"] for problem in answer.json()["error"]["details"]]
    assert f"config.{field}" in params, answer.text[:500]


ENDPOINTS = ["hf_endpoint", "HF_ENDPOINT", "wandb_base_url", "WANDB_BASE_URL", "mlflow_tracking_uri", "proxies", "env"]


@pytest.mark.parametrize("field", ENDPOINTS)
def test_no_field_of_a_config_sets_a_hubs_or_a_trackers_address(client, field):
    answer = client.post("/v1/jobs", json={"config": {**CONFIG, field: "http://127.0.0.1:1/"}})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "unknown_key")


def test_the_configs_schema_names_no_address(client):
    """A key that comes later and takes one is to be looked at."""
    properties = client.get("/v1/config/schema").json()["properties"]
    assert not [name for name in properties if re.search(r"url|uri|endpoint|host(?!s)|proxy|address", name.lower())]


FOREIGN_ID = "job-01jd8m3v5xq2c7r9t4w6y8z0ab"
QUERIES = [
    ("/v1/jobs?limit=0", 422, "no page"),
    ("/v1/jobs?limit=101", 422, "too large a page"),
    ("/v1/jobs?limit=-1", 422, "a negative page"),
    ("/v1/jobs?limit=99999999999999999999999999", 422, "a page beyond 64 bits"),
    ("/v1/jobs?limit=" + "9" * 5000, 422, "a page of 5,000 digits"),
    ("/v1/jobs?limit=1e3", 422, "a page as a float"),
    ("/v1/jobs?limit=NaN", 422, "no number"),
    ("/v1/jobs?limit=%00", 422, "NUL"),
    ("/v1/jobs?limit=1&limit=100000", 422, "two pages"),
    ("/v1/jobs?after=" + FOREIGN_ID, 200, "an id of nobody"),
    ("/v1/jobs?after=%00", 200, "NUL as an id"),
    ("/v1/jobs?after=%ff%fe", 200, "no UTF-8 as an id"),
    ("/v1/jobs?after=%ed%a0%80", 200, "a surrogate as an id"),
    ("/v1/jobs?after=" + "x" * 65, 422, "an id too long"),
    ("/v1/jobs?after='%20OR%201=1--", 200, "SQL as an id"),
    ("/v1/jobs?status=%27", 422, "SQL as a state"),
    ("/v1/jobs?status[$ne]=queued", 200, "an operator as a field"),
    ("/v1/jobs?" + "&".join(f"k{i}=v" for i in range(5000)), 200, "5,000 fields"),
    ("/v1/jobs/" + FOREIGN_ID + "?wait=1e999", 422, "an infinite wait"),
    ("/v1/jobs/" + FOREIGN_ID + "?wait=NaN", 422, "a wait that is no number"),
    ("/v1/jobs/" + FOREIGN_ID + "?wait=-1", 422, "a negative wait"),
    ("/v1/jobs/" + FOREIGN_ID + "?wait=999999", 422, "a wait of days"),
    ("/v1/jobs/" + FOREIGN_ID + "/events?limit=100000", 422, "too many events"),
    ("/v1/jobs/" + FOREIGN_ID + "/events?after=-1", 422, "a negative place"),
    ("/v1/jobs/" + FOREIGN_ID + "/events?after=99999999999999999999", 422, "a place beyond 64 bits"),
    ("/v1/jobs/" + FOREIGN_ID + "/logs?after=1-99999999999999999999", 422, "a line beyond 64 bits"),
    ("/v1/jobs/" + FOREIGN_ID + "/events?after=%D9%A1", 422, "a digit of another script"),
    ("/v1/config/schema?config_key=__class__", 404, "an attribute as a key"),
    ("/v1/config/schema?config_key=" + "%F0%9F%92%A9" * 100, 404, "a key of many bytes"),
    ("/v1/config/schema?config_key=" + "a" * 201, 422, "a key too long"),
    ("/v1/jobs/%00", 404, "NUL as a path's id"),
    ("/v1/jobs/%ff", 404, "no UTF-8 as a path's id"),
    ("/v1/jobs/job-" + "a" * 59, 404, "an id of the right length"),
    ("/v1/jobs/" + "a" * 10_000, 422, "an id of 10,000 characters"),
]


@pytest.mark.parametrize(("path", "status", "reason"), QUERIES, ids=[reason for _, _, reason in QUERIES])
def test_an_odd_query_is_answered_or_refused(client, path, status, reason):
    answer = client.get(path)
    check_harmless(answer)
    assert answer.status_code == status, answer.text[:300]


HEADERS = [
    ({"idempotency-key": "k" * 256}, "a key of the client's too long"),
    ({"idempotency-key": "a b"}, "a blank"),
    ({"idempotency-key": b"\xe2\x80\xae"}, "text that runs from right to left"),
    ({"idempotency-key": ""}, "nothing"),
    ({"content-encoding": "gzip"}, "a body that is said to be compressed"),
    ({"content-encoding": "deflate, gzip, br"}, "one compressed thrice"),
    ({"content-type": "application/xml"}, "another type"),
    ({"content-type": "application/json; charset=" + "x" * 5000}, "a long charset"),
    ({"content-type": "a" * 20_000}, "a long type"),
    ({"content-type": "text/plain"}, "what a form of another site could send"),
    ({"content-type": "multipart/form-data; boundary=" + "b" * 5000}, "a form"),
]


@pytest.mark.parametrize(("headers", "reason"), HEADERS, ids=[reason for _, reason in HEADERS])
def test_an_odd_header_of_a_submission_is_refused(client, headers, reason):
    answer = client.post("/v1/jobs", content=json.dumps({"config": CONFIG}), headers={**JSON, **headers})
    check_harmless(answer)
    if headers.get("content-type", "").startswith("application/json"):
        assert answer.status_code in {201, 422}
    else:
        assert answer.status_code in {415, 422}, answer.text


def test_a_compressed_bomb_is_not_unpacked(client):
    bomb = gzip.compress(b" " * (30 << 20))
    started = time.monotonic()
    for path in ("/v1/jobs", "/v1/files"):
        answer = client.post(path, content=bomb, headers={**JSON, "content-encoding": "gzip"})
        check_harmless(answer)
        assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_encoding")
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("given", ["a b", "x" * 129, "../x", "<b>", "a\tb", "é"])
def test_a_request_id_that_could_forge_a_line_is_not_taken(client, given):
    answer = client.get("/livez", headers={"x-request-id": given.encode()})
    assert answer.headers["x-request-id"].startswith("req-")
