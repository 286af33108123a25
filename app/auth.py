"""Who is asking: every path needs a key, except those that are named here."""

from typing import Annotated

from fastapi import Security
from fastapi.security import HTTPBearer
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import Forbidden, Unauthenticated, build_error_response
from app.keys.service import KeyService, Principal

OPEN_PATHS = frozenset({"/", "/livez", "/readyz", "/docs", "/openapi.json", "/favicon.ico"})
OPEN_PREFIXES = ("/static/", "/docs/assets/")
ADMIN_SCOPE = "admin"


class PrincipalBearer(HTTPBearer):
    """Dependency of every router that is not open: returns who asks, and declares the scheme; the second line behind
    AuthGate. One object for both, because each dependency of a dependency costs every request its time."""

    def __init__(self) -> None:
        super().__init__(
            scheme_name="ApiKey",
            bearerFormat="fsk_…",
            description="An API key of this installation. Paste the key alone; `Bearer` is added for you.",
        )

    async def __call__(self, request: HTTPConnection) -> Principal:  # type: ignore[override]
        """Raises Unauthenticated."""
        principal: Principal | None = getattr(request.state, "principal", None)
        if principal is None:
            raise Unauthenticated("This call needs an API key.")
        return principal


require_principal = PrincipalBearer()


class AuthGate:
    """Middleware that denies by default: a path that nobody thought of wants a key as well.

    Puts the Principal into the scope's state, where `require_principal` finds it.
    """

    def __init__(self, app: ASGIApp, *, metrics_public: bool) -> None:
        self.app = app
        self.open_paths = OPEN_PATHS | {"/metrics"} if metrics_public else OPEN_PATHS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or self._is_open(scope["path"]):
            await self.app(scope, receive, send)
            return
        try:
            principal = await _authenticate(scope)
        except Unauthenticated as error:
            await build_error_response(error)(scope, receive, send)
            return
        scope.setdefault("state", {})["principal"] = principal
        await self.app(scope, receive, send)

    def _is_open(self, path: str) -> bool:
        return path in self.open_paths or path.startswith(OPEN_PREFIXES)


async def require_admin(principal: Annotated[Principal, Security(require_principal)]) -> Principal:
    """Dependency of the calls that are for admins alone."""
    if ADMIN_SCOPE not in principal.scopes:
        raise Forbidden("This call needs a key with the scope `admin`.")
    return principal


class MetricsBearer(PrincipalBearer):
    """Dependency of the metrics: an admin, or anybody where the installation says so."""

    async def __call__(self, request: HTTPConnection) -> Principal | None:  # type: ignore[override]
        """Raises Unauthenticated, Forbidden."""
        if request.app.state.services.settings.metrics_public:
            return None
        return await require_admin(await super().__call__(request))


async def _authenticate(scope: Scope) -> Principal:
    scheme, _, plaintext = Headers(scope=scope).get("authorization", "").partition(" ")
    plaintext = plaintext.strip()
    if not plaintext or scheme.lower() != "bearer":
        raise Unauthenticated("This call needs an API key: send it as `Authorization: Bearer fsk_…`.")
    keys: KeyService = scope["app"].state.services.keys
    # A hop to a thread costs more than all the rest of a small request.
    principal = keys.find_cached(plaintext) or await run_in_threadpool(keys.authenticate, plaintext)
    if principal is None:
        raise Unauthenticated("This API key is not valid: it is wrong, expired or revoked.")
    return principal
