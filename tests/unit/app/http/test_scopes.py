"""Every call needs a declared scope, whoever wrote its router."""

import pytest
from fastapi import APIRouter, FastAPI, Security
from fastapi.testclient import TestClient
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as AsgiScope

from app.api.error_handlers import add_error_handlers
from app.auth import _find_address, require_principal
from app.keys.scopes import Scope, find_needed_scope
from app.keys.views import Principal
from app.main import create_app
from app.settings import Settings

OPEN = {"/", "/livez", "/readyz", "/docs", "/openapi.json", "/favicon.ico"}


@pytest.mark.parametrize(
    ("method", "path", "needed"),
    [
        ("GET", "/v1/jobs", Scope.READ),
        ("HEAD", "/v1/files/{file_id}/content", Scope.READ),
        ("POST", "/v1/jobs/validate", Scope.READ),
        ("POST", "/v1/jobs", Scope.SUBMIT),
        ("POST", "/v1/jobs/{job_id}/cancel", Scope.SUBMIT),
        ("DELETE", "/v1/files/{file_id}", Scope.SUBMIT),
        ("PUT", "/v1/secrets/{name}", Scope.SUBMIT),
        ("POST", "/v1/previews", Scope.SUBMIT),
        ("GET", "/v1/keys", Scope.ADMIN),
        ("POST", "/v1/keys/{key_id}/rotate", Scope.ADMIN),
        ("PATCH", "/v1/projects/{project_id}", Scope.ADMIN),
        ("GET", "/metrics", Scope.ADMIN),
        ("GET", "/v1/jobsx", None),
        ("GET", "/v1/keysx", None),
        ("GET", "/v2/jobs", None),
        ("POST", "/", None),
    ],
)
def test_the_scope_that_a_call_needs(method: str, path: str, needed: Scope | None) -> None:
    assert find_needed_scope(method, path) is needed


def test_every_guarded_operation_declares_its_scope(tmp_path) -> None:
    document = create_app(Settings(data_dir=tmp_path)).openapi()
    undeclared = [
        (method, path)
        for path, item in document["paths"].items()
        for method in item
        if path not in OPEN and find_needed_scope(method.upper(), path) is None
    ]
    assert undeclared == []


class _Known:
    """Stands for AuthGate: the scope's state holds who asks."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope.setdefault("state", {})["principal"] = Principal("ann", frozenset(Scope), "key-1")
        await self.app(scope, receive, send)


def test_a_route_that_nobody_declared_is_refused_even_to_an_admin() -> None:
    router = APIRouter()

    @router.get("/v1/surprise")
    async def surprise() -> str:
        return "open"

    @router.get("/v1/jobs")
    async def known() -> str:
        return "open"

    root = APIRouter(dependencies=[Security(require_principal)])
    root.include_router(router)
    app = FastAPI()
    app.add_middleware(_Known)
    add_error_handlers(app)
    app.include_router(root)
    client = TestClient(app)
    answer = client.get("/v1/surprise")
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "insufficient_scope")
    assert "/v1/surprise" in answer.json()["error"]["message"]
    assert client.get("/v1/jobs").status_code == 200


@pytest.mark.parametrize(
    ("host", "counted_as"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("a unix socket", "a unix socket"),
    ],
)
def test_a_client_cannot_change_the_address_that_its_guesses_are_counted_for(host: str, counted_as: str) -> None:
    assert _find_address({"client": (host, 1)}) == counted_as
    assert _find_address({"client": None}) == ""
