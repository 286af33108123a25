"""Wake-ups for workers over Celery: they carry a job's id and may be lost, late or doubled."""

import logging

import kombu.exceptions
import redis.exceptions
from celery import Celery

from app.breaker import Breaker

RUN_JOB_TASK = "finesmith.run_job"
# Twice this, because kombu tries a silent server two times: half a second in all.
SEND_TIMEOUT_SECONDS = 0.2

logger = logging.getLogger(__name__)


def queue_name(worker_id: str) -> str:
    """The Celery queue that only this worker reads."""
    return f"finesmith.{worker_id}"


def celery_settings(redis_url: str) -> dict[str, object]:
    """Celery's settings, the same for the sending app and the receiving worker."""
    return {
        "broker_url": broker_url(redis_url),
        "result_backend": None,
        "task_ignore_result": True,
        "task_serializer": "json",
        "accept_content": ["json"],
        "task_acks_late": False,
        "task_reject_on_worker_lost": False,
        "task_create_missing_queues": True,
        "worker_prefetch_multiplier": 1,
        "worker_disable_prefetch": True,
        "worker_hijack_root_logger": False,
        # A blip of the broker must not kill an hours-long training; Celery 6 turns this on by default.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_send_task_events": False,
        "worker_enable_remote_control": False,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_transport_options": {
            "socket_timeout": 10,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 15,
            "global_keyprefix": "finesmith:",
        },
    }


def broker_url(redis_url: str) -> str:
    """The URL as Celery spells it: a unix socket is `redis+socket://`."""
    return f"redis+socket://{redis_url.removeprefix('unix://')}" if redis_url.startswith("unix://") else redis_url


class WakeupQueue:
    """Sends wake-ups within half a second or not at all; after a failure the next ones are skipped for a while."""

    def __init__(self, redis_url: str) -> None:
        self._breaker = Breaker()
        self._celery = Celery("finesmith", set_as_current=False)
        settings = celery_settings(redis_url)
        self._celery.conf.update(settings, broker_pool_limit=40, broker_connection_timeout=SEND_TIMEOUT_SECONDS)
        self._celery.conf.broker_transport_options = {
            "global_keyprefix": "finesmith:",
            "health_check_interval": 15,
            "socket_timeout": SEND_TIMEOUT_SECONDS,
            "socket_connect_timeout": SEND_TIMEOUT_SECONDS,
            # Connecting is else retried for seconds, whatever `retry=False` says.
            "connect_retries_timeout": 0,
            "interval_start": 0,
            "interval_step": 0,
            "interval_max": 0,
            "max_retries": 1,
        }

    def send(self, job_id: str, worker_id: str) -> bool:
        """Wakes the worker for the job; False when that failed, which the reconciler makes good later."""
        if self._breaker.is_open:
            return False
        try:
            self._celery.send_task(
                RUN_JOB_TASK, args=[job_id], queue=queue_name(worker_id), retry=False, ignore_result=True
            )
        except (kombu.exceptions.OperationalError, redis.exceptions.RedisError, OSError) as error:
            self._breaker.trip()
            logger.warning("wake-up of %s for %s not sent: %s", worker_id, job_id, error)
            return False
        return True

    def close(self) -> None:
        """Closes the connections."""
        self._celery.close()
