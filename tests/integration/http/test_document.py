"""Schemathesis over the whole OpenAPI document on a real server: whatever it sends, only documented answers come."""

import os
import subprocess
import sys

import pytest

from tests.support.postgres import run_postgres

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "missing_required_header",
    "unsupported_method",
    "allow_header_conformance",
    "use_after_free",
    "ignored_auth",
)
OWN_KEY = ("revoke_key", "rotate_key")
"""Asked for in a run of their own: they find the id of the key that the run is made with."""


def without(operations):
    return [word for operation in operations for word in ("--exclude-operation-id", operation)]


def explore(server, *options, folder):
    """One run as an admin; fails with its report."""
    with server.make_client("ana", ("jobs", "admin")) as client:
        argv = [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"),
            *("--header", f"Authorization: {client.headers['authorization']}"),
            *("--checks", ",".join(CHECKS), "--continue-on-failure", "--request-timeout", "10"),
            *("--generation-database", "none", "--warnings", "off", "--no-color"),
            *options,
        ]
        # A long poll of up to a minute is right, but a run has no time for it; odd values have a table of their own.
        (folder / "schemathesis.toml").write_text('[parameters]\n"query.wait" = 0.01\n')
        environment = {**os.environ, "SCHEMATHESIS_HOOKS": "", "PYTHONWARNINGS": "ignore"}
        done = subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True, timeout=540)
        assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
        if options[0] == "--exclude-operation-id":
            assert client.get("/v1/jobs").status_code == 200, "the key was lost on the way, and with it what came later"


def test_every_answer_is_as_documented(hostile_server, tmp_path):
    explore(
        hostile_server,
        *without(OWN_KEY),
        *("--phases", "examples,coverage,fuzzing"),
        *("--max-examples", "8", "--no-shrink", "--seed", "1"),
        folder=tmp_path,
    )


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("database", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def test_every_answer_is_as_documented_after_thousands_of_requests(database, start_server, tmp_path):
    if database == "sqlite":
        explore_long(start_server(), tmp_path)
        return
    with run_postgres() as postgres:
        server = start_server(database_url=postgres.create_database())
        try:
            explore_long(server, tmp_path)
        finally:
            server.process.kill()


def explore_long(server, folder):
    for operation in OWN_KEY:
        explore(server, "--include-operation-id", operation, "--max-examples", "100", "--seed", "7", folder=folder)
    explore(server, *without(OWN_KEY), "--max-examples", "150", "--seed", "7", folder=folder)
