"""Jobs: submit, look up, steer, wait for, watch, and fetch their results."""

import os
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Unpack

from finesmith.download import artifact_source, download_file
from finesmith.feeds import event_feed, log_feed
from finesmith.follow import Follower
from finesmith.models.artifact import Artifact
from finesmith.models.event import Event, LogLine
from finesmith.models.installation import Validation
from finesmith.models.job import DEFAULT_WAIT_SECONDS, FINISHED_STATUSES, Job
from finesmith.models.page import Page
from finesmith.pages import LONG_PAGES, ListQuery, fetch_all, fetch_page
from finesmith.paths import api_path
from finesmith.problems import read_problems
from finesmith.progress.choose import choose_view
from finesmith.resources.files import Files
from finesmith.submission import JobOptions, build_submission, refuse_upload
from finesmith.targets import safe_target, select_artifacts
from finesmith.transport import Call, Transport
from finesmith.waiting import wait_for_job
from finesmith.wire import as_object, decode

# Within the class `list` is a method, so the annotations below it need names of their own.
Events = list[Event]
LogLines = list[LogLine]
Artifacts = list[Artifact]
Paths = list[Path]


class Jobs:
    """`client.jobs`. Most calls that take a `job_id` are methods of a Job too."""

    def __init__(self, transport: Transport, files: Files) -> None:
        self._transport = transport
        self._files = files

    def create(
        self, *, config: Mapping[str, object], idempotency_key: str | None = None, **options: Unpack[JobOptions]
    ) -> Job:
        """Submits a job; when this returns, the service will not lose it.

        Data sets that are local paths are uploaded first. The call is repeated after broken connections under one
        idempotency key, so that it makes one job; give `idempotency_key` to have that over several runs of your
        program too. Raises UnprocessableEntityError or BadRequestError whose `details` name everything that is wrong.
        """
        body = build_submission(config, options, upload=self._files.upload)
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        return self._job(self._transport.send(Call("POST", api_path("jobs"), headers=headers, json=body)))

    def validate(self, *, config: Mapping[str, object], **options: Unpack[JobOptions]) -> Validation:
        """Says what `create` would make of the same arguments, and stores nothing; bad input is not raised but
        returned as `problems`. Data sets must be uploaded already."""
        body = build_submission(config, options, upload=refuse_upload)
        answer = as_object(self._transport.send(Call("POST", api_path("jobs", "validate"), json=body)))
        return replace(decode(Validation, answer), problems=read_problems(answer.get("error")))

    def get(self, job_id: str) -> Job:
        """Looks one job up; raises NotFoundError."""
        return self._job(self._transport.send(Call("GET", api_path("jobs", job_id))))

    def list(self, *, limit: int | None = None, after: str | None = None, status: str | None = None) -> Page[Job]:
        """A page of at most `limit` jobs, after the one with the id `after`; iterating it goes on to the others.

        `status` keeps only the jobs in that state.
        """
        given = {"limit": limit, "after": after, "status": status}
        params = {name: value for name, value in given.items() if value is not None}
        query = ListQuery(api_path("jobs"), Job, params=params, finish=self._bind)
        return fetch_page(self._transport, query)

    def cancel(self, job_id: str, *, save_checkpoint: bool = True) -> Job:
        """Asks the service to stop the job and returns at once; asking again does no harm.

        Without `save_checkpoint` a running job is killed at once. Raises ConflictError if it has succeeded or failed.
        """
        params = {} if save_checkpoint else {"save_checkpoint": "false"}
        return self._job(self._transport.send(Call("POST", api_path("jobs", job_id, "cancel"), params=params)))

    def pause(self, job_id: str) -> Job:
        """Asks the job to save a checkpoint, free its GPUs and wait until it is resumed; returns at once.

        Until a running job has obeyed, `stop_requested` is `pause`. Raises ConflictError if it has finished.
        """
        return self._job(self._transport.send(Call("POST", api_path("jobs", job_id, "pause"))))

    def resume(self, job_id: str) -> Job:
        """Lets a paused job go on from its checkpoint, or takes back a pause that it has not obeyed yet.

        Raises ConflictError if it has finished.
        """
        return self._job(self._transport.send(Call("POST", api_path("jobs", job_id, "resume"))))

    def retry(self, job_id: str) -> Job:
        """Queues a failed or cancelled job again, from its last complete checkpoint. Raises ConflictError for others.

        Not repeated when the answer is lost: the job would by then be queued already.
        """
        call = Call("POST", api_path("jobs", job_id, "retry"), is_idempotent=False)
        return self._job(self._transport.send(call))

    def delete(self, job_id: str) -> None:
        """Deletes a finished job with all its artifacts. Raises ConflictError if it has not finished."""
        self._transport.send(Call("DELETE", api_path("jobs", job_id)))

    def wait(self, job: str | Job, *, timeout: float | None = DEFAULT_WAIT_SECONDS, progress: bool = True) -> Job:
        """As `Job.wait`."""
        current = self.get(job) if isinstance(job, str) else job
        view = choose_view(progress=progress)
        try:
            return wait_for_job(
                current, look=self._look, timeout=timeout, view=view, retry=self._transport.settings.retry
            )
        finally:
            view.close()

    def events(self, job_id: str, *, after: int | None = None) -> Events:
        """The job's events so far, after the one numbered `after`."""
        query = ListQuery(api_path("jobs", job_id, "events"), Event, params=LONG_PAGES, cursor_field="seq")
        return [*fetch_all(self._transport, query.starting_after(after))]

    def follow_events(self, job_id: str, *, after: int | None = None) -> Iterator[Event]:
        """The job's events as they come, until it has finished; as `Job.events(follow=True)`."""
        feed = event_feed(job_id, is_over=lambda: self._is_over(job_id))
        return iter(Follower(self._transport, feed, after=None if after is None else str(after)))

    def logs(self, job_id: str, *, after: str | None = None) -> LogLines:
        """What the job's steps have printed so far, after the line with the id `after`."""
        query = ListQuery(api_path("jobs", job_id, "logs"), LogLine, params=LONG_PAGES)
        return [*fetch_all(self._transport, query.starting_after(after))]

    def follow_logs(self, job_id: str, *, after: str | None = None) -> Iterator[LogLine]:
        """What the job's steps print, as it comes, until it has finished; as `Job.logs(follow=True)`."""
        feed = log_feed(job_id, is_over=lambda: self._is_over(job_id))
        return iter(Follower(self._transport, feed, after=after))

    def metrics(self, job_id: str, *, after: int | None = None) -> Events:
        """The training log so far, one event a record."""
        query = ListQuery(api_path("jobs", job_id, "metrics"), Event, params=LONG_PAGES, cursor_field="seq")
        return [*fetch_all(self._transport, query.starting_after(after))]

    def artifacts(self, job_id: str) -> Artifacts:
        """The files that the job has produced so far."""
        return [*fetch_all(self._transport, ListQuery(api_path("jobs", job_id, "artifacts"), Artifact))]

    def download(self, job_id: str, path: str | os.PathLike[str], *, prefix: str | None = None) -> Paths:
        """As `Job.download`."""
        folder = Path(path)
        artifacts = select_artifacts(self.artifacts(job_id), prefix=prefix)
        # All paths are checked before the first byte is written.
        targets = [safe_target(folder, artifact.path) for artifact in artifacts]
        for artifact, target in zip(artifacts, targets, strict=True):
            download_file(self._transport, artifact_source(job_id, artifact), target)
        return targets

    def _look(self, job_id: str, wait_seconds: float) -> Job:
        call = Call(
            "GET",
            api_path("jobs", job_id),
            params={"wait": f"{wait_seconds:.3g}"},
            read_timeout_seconds=wait_seconds + self._transport.settings.timeout_seconds,
            is_retried=False,
        )
        return self._job(self._transport.send(call))

    def _is_over(self, job_id: str) -> bool:
        answer = as_object(self._transport.send(Call("GET", api_path("jobs", job_id))))
        return answer.get("status") in FINISHED_STATUSES

    def _job(self, answer: object) -> Job:
        return self._bind(decode(Job, answer))

    def _bind(self, job: Job) -> Job:
        return replace(job, _jobs=self)
