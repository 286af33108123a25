"""The gate asks the database for keys that it does not remember: without one it says so, and when to come again."""

from fastapi.testclient import TestClient
from sqlalchemy.exc import OperationalError

from app.main import create_app
from app.settings import Settings


def test_a_key_that_cannot_be_looked_up_is_a_503(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise OperationalError("SELECT", {}, Exception("away"))

    with TestClient(create_app(Settings(data_dir=tmp_path)), raise_server_exceptions=False) as client:
        # A patch: a database that goes away between two requests cannot be had from SQLite.
        monkeypatch.setattr(client.app.state.services.keys, "authenticate", fail)
        answer = client.get("/v1/jobs", headers={"authorization": "Bearer fsk_" + "x" * 43})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "database_unavailable")
    assert answer.headers["retry-after"]
