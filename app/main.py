"""Puts the app together: `create_app(settings)`."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version

import anyio.to_thread
from fastapi import APIRouter, FastAPI, Security
from fastapi.routing import APIRoute

from app.api import (
    artifacts,
    events,
    files,
    health,
    jobs,
    keys,
    previews,
    projects,
    registries,
    secrets,
    webhooks,
    workers,
)
from app.api.body_limit import BodyLimit
from app.api.error_handlers import add_error_handlers
from app.api.instruments import Instruments
from app.api.loop_lag import watch_loop_lag
from app.api.metrics import MetricsPage
from app.api.pages import add_pages
from app.api.readiness import Readiness
from app.api.request_context import RequestContext
from app.api.responses import error_responses
from app.api.services import Services, build_services
from app.api.telemetry_config import build_telemetry_config
from app.api.translation import add_store_error_handler
from app.auth import AuthGate, require_principal
from app.db.session import POOL_SIZE
from app.jobs.reconciler import Reconciler
from app.settings import Settings

DESCRIPTION = """\
Fine-tune language models on your own machines: upload a data set, submit a **Config**, watch the job live, download the
adapter, the fused and the quantized model.

**Authorize** with an API key (`finesmith-server up` writes the first one to `api_key` in its data folder), upload a
file under *files*, submit a job under *jobs*, and follow it under *events*.

Every error has the shape `{"error": {"message", "type", "param", "code", "details"}}`; `x-request-id` names a request.
"""
TAGS = [
    {"name": "jobs", "description": "Submit, watch and steer fine-tuning jobs."},
    {"name": "previews", "description": "What a model would see of a file, token by token."},
    {"name": "files", "description": "Data sets: JSON lines, one sample a line."},
    {"name": "events", "description": "What happens in a job: as lists, or live as server-sent events."},
    {"name": "artifacts", "description": "What a job produced."},
    {"name": "installation", "description": "What this installation can do."},
    {"name": "webhooks", "description": "What happens to jobs, posted to a URL of yours and signed."},
    {"name": "secrets", "description": "Tokens that jobs use by name; nobody sees them again."},
    {"name": "projects", "description": "Owners of jobs, files and keys, and their limits; for admins."},
    {"name": "keys", "description": "API keys; for admins."},
    {"name": "health", "description": "For machines that watch this one."},
]
RECONCILER_STOP_SECONDS = 2.0


def create_app(settings: Settings) -> FastAPI:
    """Builds an app of its own: nothing is connected before its lifespan starts, nothing is shared with other apps."""
    instruments = Instruments()
    app = FastAPI(
        title="Finesmith",
        version=find_version(),
        description=DESCRIPTION,
        openapi_tags=TAGS,
        docs_url=None,
        redoc_url=None,
        lifespan=_run_services,
        generate_unique_id_function=_name_operation,
        telemetry=build_telemetry_config(),
    )
    app.state.settings = settings
    app.state.instruments = instruments
    # The last one added is the outermost.
    app.add_middleware(BodyLimit, max_body_bytes=settings.max_body_bytes, max_upload_bytes=settings.max_upload_bytes)
    app.add_middleware(AuthGate, settings=settings)
    app.add_middleware(RequestContext, instruments=instruments)
    add_error_handlers(app)
    add_store_error_handler(app)
    add_pages(app)
    app.include_router(health.open_router, responses=error_responses(500))
    app.include_router(health.metrics_router, responses=error_responses(401, 429, 500))
    app.include_router(_build_guarded_router())
    return app


def find_version() -> str:
    """Version of the installed distribution; `0+unknown` when run from a tree that is not installed."""
    try:
        return version("finesmith-server")
    except PackageNotFoundError:
        return "0+unknown"


def _build_guarded_router() -> APIRouter:
    """The root of everything that needs a key."""
    root = APIRouter(dependencies=[Security(require_principal)], responses=error_responses(401, 403, 429, 500))
    for module in (jobs, previews, files, events, artifacts, registries, workers, webhooks, secrets, projects, keys):
        root.include_router(module.router)
    return root


def _name_operation(route: APIRoute) -> str:
    return route.name


@asynccontextmanager
async def _run_services(app: FastAPI) -> AsyncIterator[None]:
    """The app's life: services and the reconciler's thread. Threads are as many as database connections, so that no
    request waits for one while it holds the other."""
    anyio.to_thread.current_default_thread_limiter().total_tokens = POOL_SIZE
    settings: Settings = app.state.settings
    services = build_services(settings)
    app.state.services = services
    instruments: Instruments = app.state.instruments
    page = app.state.metrics_page = MetricsPage(instruments, services, version=find_version())
    app.state.readiness = Readiness(services)
    stop = threading.Event()
    chores = [services.previews.reconcile, page.note_tick]
    reconciler = Reconciler(services.jobs, settings.reconcile_interval_seconds, chores=chores)
    threading.Thread(target=services.retention.run, args=(stop,), name="retention", daemon=True).start()
    thread = threading.Thread(target=reconciler.run, args=(stop,), name="reconciler", daemon=True)
    thread.start()
    services.webhook_sender.start()
    lag_watch = asyncio.create_task(watch_loop_lag(instruments.loop_lag), name="loop-lag")
    try:
        yield
    finally:
        stop.set()
        lag_watch.cancel()
        await services.live.close()
        await asyncio.to_thread(services.webhook_sender.stop)
        await asyncio.to_thread(thread.join, RECONCILER_STOP_SECONDS)
        _close(services)


def _close(services: Services) -> None:
    services.group_commit.close()
    services.queue.close()
    services.bus.close()
    services.engine.dispose()
