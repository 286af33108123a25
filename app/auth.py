"""Who is asking, and may they: every path needs a key but those that are named here, every call a scope."""

import ipaddress
import math
from typing import Annotated

from fastapi import Security
from fastapi.security import HTTPBearer
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import ApiError, DatabaseUnavailable, Forbidden, RateLimited, Unauthenticated, build_error_response
from app.keys import scopes
from app.keys.buckets import Buckets
from app.keys.service import KeyService, is_key
from app.keys.views import Principal
from app.settings import Settings

OPEN_PATHS = frozenset({"/", "/livez", "/readyz", "/docs", "/openapi.json", "/favicon.ico"})
OPEN_PREFIXES = ("/static/", "/docs/assets/")


class PrincipalBearer(HTTPBearer):
    """Dependency of every router that is not open: returns who asks, declares the scheme, and checks the scope by the
    route that was found; the second line behind AuthGate. One object for all, because each dependency of a dependency
    costs every request its time."""

    def __init__(self) -> None:
        super().__init__(
            scheme_name="ApiKey",
            bearerFormat="fsk_…",
            description="An API key of this installation. Paste the key alone; `Bearer` is added for you.",
        )

    async def __call__(self, request: HTTPConnection) -> Principal:  # type: ignore[override]
        """Raises Unauthenticated, Forbidden."""
        principal: Principal | None = getattr(request.state, "principal", None)
        if principal is None:
            raise Unauthenticated("This call needs an API key.")
        method, path = request.scope["method"], request.scope["route"].path
        needed = scopes.find_needed_scope(method, path)
        if needed is None:
            raise Forbidden(f"Nobody has declared which scope {method} {path} needs, so no key may call it.")
        check_scope(principal, needed)
        return principal


require_principal = PrincipalBearer()


def read_key(headers: Headers) -> str:
    """The key that a request sends; empty when it sends none."""
    scheme, _, plaintext = headers.get("authorization", "").partition(" ")
    return plaintext.strip() if scheme.lower() == "bearer" else ""


class AuthGate:
    """Middleware that denies by default: a path that nobody thought of wants a key as well.

    Before anything of the body is read it checks the key, how often it has called, and whether its scopes allow the
    call. Puts the Principal into the scope's state, where `require_principal` finds it.
    """

    def __init__(self, app: ASGIApp, *, settings: Settings) -> None:
        self.app = app
        self.settings = settings
        self.open_paths = OPEN_PATHS | {"/metrics"} if settings.metrics_public else OPEN_PATHS
        self.calls = Buckets()
        self.failures = Buckets()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or self._is_open(scope["path"]):
            await self.app(scope, receive, send)
            return
        try:
            principal = await self._authenticate(scope)
            self._count_call(principal)
            needed = scopes.find_needed_scope(scope.get("method", ""), scope["path"])
            if needed is not None:
                check_scope(principal, needed)
        except ApiError as error:
            await build_error_response(error)(scope, receive, send)
            return
        except (OperationalError, PoolTimeout):
            # The handlers of the app stand behind this gate.
            await build_error_response(DatabaseUnavailable())(scope, receive, send)
            return
        scope.setdefault("state", {})["principal"] = principal
        await self.app(scope, receive, send)

    def _is_open(self, path: str) -> bool:
        return path in self.open_paths or path.startswith(OPEN_PREFIXES)

    async def _authenticate(self, scope: Scope) -> Principal:
        """Raises Unauthenticated, RateLimited."""
        plaintext = read_key(Headers(scope=scope))
        if not plaintext:
            raise Unauthenticated("This call needs an API key: send it as `Authorization: Bearer fsk_…`.")
        keys: KeyService = scope["app"].state.services.keys
        principal = keys.find_cached(plaintext)
        if principal is None and is_key(plaintext):
            self._check_failures(scope)
            # A hop to a thread costs more than all the rest of a small request.
            principal = await run_in_threadpool(keys.authenticate, plaintext)
            if principal is None:
                self._count_failure(scope)
        if principal is None:
            raise Unauthenticated("This API key is not valid: it is wrong, expired or revoked.")
        return principal

    def _check_failures(self, scope: Scope) -> None:
        """Who has guessed too often waits before the database is asked again. Raises RateLimited."""
        per_minute = self.settings.failed_authentications_per_minute
        if per_minute is not None:
            seconds = self.failures.seconds_to_wait(_find_address(scope), per_minute=per_minute)
            if seconds:
                message = "Too many API keys that are not valid came from this address."
                raise RateLimited(message, code="too_many_failures", retry_after_seconds=math.ceil(seconds))

    def _count_failure(self, scope: Scope) -> None:
        per_minute = self.settings.failed_authentications_per_minute
        if per_minute is not None:
            self.failures.take(_find_address(scope), per_minute=per_minute)

    def _count_call(self, principal: Principal) -> None:
        """Raises RateLimited."""
        per_minute = principal.limits.max_requests_per_minute or self.settings.requests_per_minute
        if per_minute is not None:
            seconds = self.calls.take(principal.key_id, per_minute=per_minute)
            if seconds:
                message = f"This key may make {per_minute} requests a minute."
                raise RateLimited(message, retry_after_seconds=math.ceil(seconds))


def check_scope(principal: Principal, needed: scopes.Scope) -> None:
    """Raises Forbidden, naming the scope."""
    if needed not in principal.scopes:
        raise Forbidden(f"This call needs a key with the scope `{needed}`.")


async def require_admin(principal: Annotated[Principal, Security(require_principal)]) -> Principal:
    """Dependency of the calls that are for admins alone."""
    check_scope(principal, scopes.Scope.ADMIN)
    return principal


class MetricsBearer(PrincipalBearer):
    """Dependency of the metrics: an admin, or anybody where the installation says so."""

    async def __call__(self, request: HTTPConnection) -> Principal | None:  # type: ignore[override]
        """Raises Unauthenticated, Forbidden."""
        if request.app.state.services.settings.metrics_public:
            return None
        return await super().__call__(request)


def _find_address(scope: Scope) -> str:
    """The client's, or its proxy's: headers that anybody can write are not believed. Of IPv6 the network, of which
    one client has all 2^64 addresses."""
    client = scope.get("client")
    host = str(client[0]) if client else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    return host if address.version == 4 else str(ipaddress.IPv6Network((address, 64), strict=False))
