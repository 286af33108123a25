"""`python -m worker [--worker-id wrk-…]`: announces this host and runs the jobs that are sent to it until SIGTERM."""

import argparse
import logging
import os
import socket
import sys
import threading
from collections.abc import Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from celery import signals

from app.db.session import build_engine
from app.ids import new_id
from app.jobs.catalogue import built_in_catalogue
from app.jobs.service import JobService
from app.jobs.workers import GpuInfo, WorkerInfo, WorkerService
from app.log_setup import configure_logging
from app.previews.service import PreviewService
from app.settings import Settings
from app.storage import Storage
from app.telemetry import add_trace_ids
from trainer_core.watchdog import become_subreaper, exit_when_stdin_closes, kill_descendants
from worker.cage import CageImpossible, check_cage
from worker.catalogue import load_catalogue
from worker.celery_app import build_celery_app
from worker.cleaning import CleaningThread
from worker.drain import DrainFlag
from worker.environment import build_probe_environment
from worker.fork_gate import ForkGate
from worker.gpus import find_gpus, read_gpus
from worker.json_lines import take_over_celery_logging
from worker.pipeline_process import PIPELINE_ENTRY
from worker.presence import Presence
from worker.preview_process import PREVIEW_ENTRY
from worker.preview_run import PreviewRenderer
from worker.preview_thread import PreviewThread
from worker.standby import StandbyKeeper, remove_left_homes
from worker.supervisor import Host
from worker.tasks import register_tasks
from worker.workspaces import remove_leftovers

logger = logging.getLogger(__name__)

_LEAVE_SECONDS = 1.0
"""How long jobs run on at a stop until the service knows that none should be sent here."""
_CAGE_IMPOSSIBLE = 6
"""Exit status."""


def main(
    arguments: Sequence[str] | None = None,
    *,
    pipeline_entry: Sequence[str] = PIPELINE_ENTRY,
    preview_entry: Sequence[str] = PREVIEW_ENTRY,
) -> int:
    """Runs a worker and returns its exit status. Takes over this process: its signals, its logging, its children."""
    parser = argparse.ArgumentParser(prog="python -m worker", description=__doc__)
    parser.add_argument("--worker-id", help="wrk-…, as an earlier start's; without it the worker is a new one")
    worker_id = parser.parse_args(arguments).worker_id or new_id("wrk")
    settings = Settings()
    configure_logging(settings.log_level, facts={"worker_id": worker_id}, extra=(add_trace_ids,))
    take_over_celery_logging(worker_id)
    if os.environ.get("FINESMITH_PARENT_PIPE") == "1":
        become_subreaper()
        exit_when_stdin_closes(kill_descendants)
    start_folder = Path.cwd()
    host = Host(
        worker_id=worker_id,
        start_folder=start_folder,
        drain=DrainFlag(),
        pipeline_entry=tuple(pipeline_entry),
        preview_entry=tuple(preview_entry),
        standby=_build_standby(settings, start_folder=start_folder, entry=tuple(pipeline_entry)),
    )
    try:
        check_cage(settings, env=build_probe_environment(settings, start_folder=host.start_folder))
    except CageImpossible as error:
        logger.error("this worker does not start: %s", error)
        return _CAGE_IMPOSSIBLE
    return run_worker(settings, host=host)


def run_worker(settings: Settings, *, host: Host) -> int:
    """Runs Celery until it is told to stop; returns its exit status."""
    gpus = find_gpus(settings.worker_gpus)
    slots = settings.worker_slots or max(1, len(gpus))
    info = WorkerInfo(
        id=host.worker_id,
        host=socket.gethostname(),
        gpus=[GpuInfo(gpu.index, gpu.name, gpu.memory_bytes) for gpu in gpus],
        slots=slots,
        version=_read_version(),
        catalogue=built_in_catalogue(),
    )
    gate = ForkGate()
    presence = Presence(
        WorkerService(gate.build_sessions(build_engine(settings.database_url, pool_size=2))),
        info=info,
        load_catalogue=partial(load_catalogue, settings.plugins),
        heartbeat_seconds=settings.heartbeat_seconds,
        read_gpus=partial(read_gpus, [gpu.index for gpu in gpus]),
    )
    previews = _build_preview_thread(settings, host, gate)
    cleaning = _build_cleaning_thread(settings, gate)
    celery = build_celery_app(settings.redis_url, worker_id=host.worker_id)
    register_tasks(celery, settings=settings, host=host)

    def begin(**_: object) -> None:
        # The pool's processes are forked by now: a thread that holds a lock at a fork would leave it locked there. What
        # is forked later, when one has died, finds the gate between them.
        presence.start()
        previews.start()
        cleaning.start()

    def drain(**_: object) -> None:
        # First the service, or it would send the jobs that are handed back to this same worker; but not for long.
        presence.leave(on_left=host.drain.set)
        previews.stop()
        cleaning.stop()
        timer = threading.Timer(_LEAVE_SECONDS, host.drain.set)
        timer.daemon = True
        timer.start()

    if host.standby is not None:
        keeper = host.standby
        # In each of the pool's processes, which has its own copy.
        signals.worker_process_init.connect(lambda **_: keeper.fill(), weak=False)
        signals.worker_process_shutdown.connect(lambda **_: keeper.close(), weak=False)
    signals.worker_ready.connect(begin, weak=False)
    signals.worker_shutting_down.connect(drain, weak=False)
    remove_leftovers(settings)
    remove_left_homes(settings)
    logger.info("%d slots, %d GPUs", slots, len(gpus))
    worker = celery.Worker(
        hostname=f"{host.worker_id}@{info.host}",
        concurrency=slots,
        pool_cls="prefork",
        loglevel=settings.log_level.upper(),
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
    )
    worker.start()
    previews.stop()
    previews.join(_LEAVE_SECONDS)
    presence.join(_LEAVE_SECONDS)
    return int(worker.exitcode or 0)


def _build_preview_thread(settings: Settings, host: Host, gate: ForkGate) -> PreviewThread:
    return PreviewThread(
        PreviewService(gate.build_sessions(build_engine(settings.database_url, pool_size=1)), settings=settings),
        worker_id=host.worker_id,
        renderer=PreviewRenderer(settings, start_folder=host.start_folder, entry=host.preview_entry),
    )


def _build_cleaning_thread(settings: Settings, gate: ForkGate) -> CleaningThread:
    sessions = gate.build_sessions(build_engine(settings.database_url, pool_size=1))
    jobs = JobService(sessions, settings=settings, storage=Storage.of(settings))
    return CleaningThread(settings, find_unfinished=jobs.find_unfinished)


def _build_standby(settings: Settings, *, start_folder: Path, entry: tuple[str, ...]) -> StandbyKeeper | None:
    """None for another program in the pipeline's place: it may not know how to wait."""
    if entry != PIPELINE_ENTRY:
        return None
    return StandbyKeeper(settings, start_folder=start_folder, entry=entry)


def _read_version() -> str:
    try:
        return version("finesmith-server")
    except PackageNotFoundError:
        return "unknown"


if __name__ == "__main__":
    sys.exit(main())
