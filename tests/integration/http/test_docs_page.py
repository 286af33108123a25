"""The documentation page works in a browser that has no network: authorize, upload, submit."""

import json
import shutil

import pytest

from tests.integration.http.conftest import MINIMAL_JOB

pytestmark = pytest.mark.browser


@pytest.fixture
def page():
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium here")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser.new_page()
        browser.close()


def execute(page, operation: str) -> str:
    """Presses Execute; returns the status that the page shows."""
    page.click(f"{operation} button.execute")
    status = page.locator(f"{operation} .live-responses-table tbody .response-col_status").first
    status.wait_for()
    return status.inner_text().split()[0]


def test_a_file_is_uploaded_and_a_job_submitted_from_the_docs_page(server, page, tmp_path):
    with server.make_client("browser") as client:
        key = client.headers["authorization"].removeprefix("Bearer ")
        foreign: list[str] = []
        page.on("request", lambda r: None if r.url.startswith((server.url, "data:")) else foreign.append(r.url))
        page.goto(f"{server.url}/docs")
        page.click("button.authorize")
        page.fill(".auth-container input", key)
        page.click(".auth-btn-wrapper button.authorize")
        page.click(".auth-btn-wrapper button.btn-done")

        (tmp_path / "data.jsonl").write_text('{"text": "a"}\n')
        upload = "#operations-files-create_file"
        page.click(f"{upload} .opblock-summary-control")
        page.set_input_files(f"{upload} input[type=file]", tmp_path / "data.jsonl")
        assert execute(page, upload) == "201"

        submit = "#operations-jobs-create_job"
        page.click(f"{submit} .opblock-summary-control")
        page.fill(f"{submit} textarea.body-param__text", json.dumps(MINIMAL_JOB))
        assert execute(page, submit) == "201"

        assert [file["filename"] for file in client.get("/v1/files").json()["data"]] == ["data.jsonl"]
        assert len(client.get("/v1/jobs").json()["data"]) == 1
        assert foreign == []
