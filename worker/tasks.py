"""The one task: run the job whose id came."""

from celery import Celery

from app.queue import RUN_JOB_TASK
from app.settings import Settings
from worker.services import Services
from worker.supervisor import Host, run_job


def register_tasks(celery: Celery, *, settings: Settings, host: Host) -> None:
    """Adds the task to the app. Each pool process builds its services at its first job: they must not cross a fork."""
    built: list[Services] = []

    def run(job_id: str) -> None:
        if not built:
            built.append(Services.build(settings))
        run_job(job_id, services=built[0], host=host)

    celery.task(name=RUN_JOB_TASK, ignore_result=True)(run)
