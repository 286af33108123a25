"""Everything that one app holds from its start to its stop, built and closed together."""

from dataclasses import dataclass

import structlog
from sqlalchemy import Engine, text

from app.api.live import LiveHub
from app.bus import AsyncBus, Bus
from app.db.group_commit import GroupCommit
from app.db.session import SessionFactory, build_engine
from app.files.service import FileService
from app.jobs.service import JobService
from app.jobs.workers import WorkerService
from app.keys.service import KeyService
from app.monitoring.service import MonitoringService
from app.previews.service import PreviewService
from app.projects.service import ProjectService
from app.queue import WakeupQueue
from app.retention.service import RetentionService
from app.secrets.service import SecretService
from app.settings import Settings
from app.storage import Storage
from app.webhooks.addresses import AllowedHosts
from app.webhooks.connecting import Connector
from app.webhooks.outgoing import OutgoingMessages
from app.webhooks.postman import Postman
from app.webhooks.sender import WebhookSender
from app.webhooks.service import WebhookService

log = structlog.get_logger("finesmith.api")


@dataclass(frozen=True)
class Services:
    """One app's parts. None of them is shared between apps, so that tests can run several."""

    settings: Settings
    engine: Engine
    storage: Storage
    jobs: JobService
    files: FileService
    keys: KeyService
    projects: ProjectService
    secrets: SecretService
    workers: WorkerService
    previews: PreviewService
    webhooks: WebhookService
    webhook_sender: WebhookSender
    monitoring: MonitoringService
    retention: RetentionService
    live: LiveHub
    queue: WakeupQueue
    bus: Bus
    group_commit: GroupCommit
    """Writes submissions."""
    has_local_database: bool
    """The database is a local file: its short reads need no thread."""

    def check_database(self) -> None:
        """Raises what the driver raises when the database does not answer."""
        with self.engine.connect() as connection:
            connection.execute(text("SELECT 1"))


def build_services(settings: Settings) -> Services:
    """Connects nothing yet: engine, bus and queue connect at first use."""
    engine = build_engine(settings.database_url)
    sessions = SessionFactory(engine)
    storage = Storage.of(settings)
    queue, bus = WakeupQueue(settings.redis_url), Bus(settings.redis_url)
    workers = WorkerService(sessions, live_seconds=settings.lease_seconds)
    jobs = JobService(sessions, settings=settings, storage=storage, queue=queue, bus=bus)
    return Services(
        settings=settings,
        engine=engine,
        storage=storage,
        jobs=jobs,
        files=FileService(sessions, storage, settings),
        keys=KeyService(sessions, settings),
        projects=ProjectService(sessions),
        secrets=SecretService(sessions, settings),
        workers=workers,
        previews=PreviewService(sessions, settings=settings),
        webhooks=WebhookService(sessions, settings),
        webhook_sender=_build_webhook_sender(sessions, settings),
        monitoring=MonitoringService(sessions, workers),
        retention=RetentionService(sessions, storage=storage, settings=settings),
        live=LiveHub(
            AsyncBus(settings.redis_url),
            max_streams_per_owner=settings.max_streams_per_owner,
            stream_lifetime_seconds=settings.stream_lifetime_seconds,
        ),
        queue=queue,
        bus=bus,
        group_commit=GroupCommit(sessions),
        has_local_database=engine.dialect.name == "sqlite",
    )


def _build_webhook_sender(sessions: SessionFactory, settings: Settings) -> WebhookSender:
    allowed = AllowedHosts.parse(settings.webhook_allowed_hosts)
    postman = Postman(allowed, connector=Connector(allowed))
    return WebhookSender(OutgoingMessages(sessions, settings), postman)
