"""The one task: run the job whose id came."""

from celery import Celery

from app.queue import RUN_JOB_TASK
from app.settings import Settings
from worker.services import Services
from worker.supervisor import Host, run_job
from worker.tracing import JobTracer


def register_tasks(celery: Celery, *, settings: Settings, host: Host) -> None:
    """Adds the task to the app. Each pool process builds its services at its first job: they must not cross a fork."""
    built: list[tuple[Services, JobTracer]] = []

    def run(job_id: str) -> None:
        if not built:
            built.append((Services.build(settings), JobTracer.build()))
        services, tracer = built[0]
        try:
            with tracer.follow_wakeup(job_id):
                run_job(job_id, services=services, host=host)
        finally:
            if host.standby is not None and not host.drain.is_set:
                host.standby.fill()

    celery.task(name=RUN_JOB_TASK, ignore_result=True)(run)
