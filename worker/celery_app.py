"""The Celery app of a worker: it only carries wake-ups, the database says what is to be done."""

from celery import Celery

from app.queue import celery_settings, queue_name


def build_celery_app(redis_url: str, *, worker_id: str) -> Celery:
    """Returns an app that reads this worker's own queue and no other."""
    celery = Celery("finesmith.worker", set_as_current=False)
    celery.conf.update(celery_settings(redis_url), task_default_queue=queue_name(worker_id))
    return celery
