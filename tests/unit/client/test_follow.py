"""Following events and log lines through everything that happens to long connections."""

import itertools

import finesmith
import pytest
from finesmith import Client

from tests.unit.client import examples, fake_service
from tests.unit.client.fake_service import DROPPED, FakeService, Reply

PATH = f"/v1/jobs/{examples.JOB_ID}"
EVENTS, LOGS = f"{PATH}/events", f"{PATH}/logs"
EVENT = [examples.event(seq) for seq in range(6)]


@pytest.fixture
def job(client: Client, service: FakeService) -> finesmith.Job:
    service.on("GET", PATH, Reply(json=examples.job()))
    return client.jobs.get(examples.JOB_ID)


def numbers(events: object) -> list[int]:
    return [event.seq for event in events]


def cursors(service: FakeService, path: str) -> list[str | None]:
    return [request.headers.get("last-event-id") for request in service.asked("GET", path)]


def test_a_stream_is_read_to_its_end(job: finesmith.Job, service: FakeService) -> None:
    service.on("GET", EVENTS, fake_service.stream(EVENT[1], ": ping\n\n", EVENT[2], end=True))
    events = list(job.events(follow=True))
    assert numbers(events) == [1, 2]
    assert events[0].data == {"loss": 2.9}
    assert service.asked("GET", EVENTS)[0].headers["accept"] == "text/event-stream"


def test_a_stream_goes_on_where_it_was_dropped(job: finesmith.Job, service: FakeService) -> None:
    in_the_middle = len(fake_service.stream(EVENT[3]).body) - 10
    service.on(
        "GET",
        EVENTS,
        fake_service.stream(EVENT[1], EVENT[2]),  # ends in order, without `end`: its time was over
        DROPPED,
        fake_service.stream(EVENT[3], EVENT[4], ends_cleanly=False, drop_after_bytes=in_the_middle),
        fake_service.stream(EVENT[3], EVENT[4], end=True),
    )
    assert numbers(job.events(follow=True)) == [1, 2, 3, 4]
    assert cursors(service, EVENTS) == [None, "2", "2", "2"]


def test_a_service_that_begins_anew_repeats_nothing(job: finesmith.Job, service: FakeService) -> None:
    service.on(
        "GET",
        EVENTS,
        fake_service.stream(EVENT[1], EVENT[2]),
        fake_service.stream(EVENT[1], EVENT[2], EVENT[3], end=True),
    )
    assert numbers(job.events(follow=True)) == [1, 2, 3]


def test_a_place_to_begin_behind_is_passed_on(job: finesmith.Job, service: FakeService) -> None:
    service.on("GET", EVENTS, fake_service.stream(EVENT[3], end=True))
    assert numbers(job.events(after=2, follow=True)) == [3]
    assert cursors(service, EVENTS) == ["2"]


def test_a_gap_that_the_service_announces_is_no_item(job: finesmith.Job, service: FakeService) -> None:
    gap = "event: gap\ndata: {}\n\n"
    service.on("GET", EVENTS, fake_service.stream(EVENT[1], gap), fake_service.stream(EVENT[2], end=True))
    assert numbers(job.events(follow=True)) == [1, 2]


@pytest.mark.parametrize(
    "broken",
    [
        fake_service.stream(": only a sign of life\n\n"),  # a proxy that holds events back
        Reply(body=b"<html>", headers={"content-type": "text/html"}),
        fake_service.error(503, code="too_many_streams"),
    ],
)
def test_where_streams_do_not_work_the_list_is_polled(job: finesmith.Job, service: FakeService, broken: Reply) -> None:
    polls = iter(
        [
            fake_service.listing(EVENT[1:3], has_more=True),
            fake_service.listing(EVENT[3:4]),
            fake_service.error(503),
            fake_service.listing([]),
            fake_service.listing(EVENT[4:5], has_more=True),
            fake_service.listing(EVENT[5:6]),
        ]
    )
    still, over = Reply(json=examples.job()), Reply(json=examples.job("failed"))
    service.on("GET", PATH, still, still, still, over)
    service.on("GET", EVENTS, lambda request: broken if "stream" in request.headers["accept"] else next(polls))
    assert numbers(job.events(follow=True)) == [1, 2, 3, 4, 5]
    polled = [request.query.get("after") for request in service.asked("GET", EVENTS) if request.query]
    assert polled == [None, "2", "3", "3", "3", "4"]


def test_following_outlives_a_restart_of_the_service_without_falling_back(
    job: finesmith.Job, service: FakeService
) -> None:
    service.on("GET", EVENTS, fake_service.stream(EVENT[1]), *[DROPPED] * 8, fake_service.stream(EVENT[2], end=True))
    assert numbers(job.events(follow=True)) == [1, 2]
    assert {request.headers["accept"] for request in service.asked("GET", EVENTS)} == {"text/event-stream"}


def test_following_gives_an_endless_outage_up(job: finesmith.Job, service: FakeService) -> None:
    service.on("GET", EVENTS, fake_service.stream(EVENT[1]), DROPPED)
    events = job.events(follow=True)
    assert next(events).seq == 1
    with pytest.raises(finesmith.APIConnectionError):
        next(events)


def test_a_refusal_ends_it_at_once(job: finesmith.Job, service: FakeService) -> None:
    service.on("GET", EVENTS, fake_service.error(404, "No such job."))
    with pytest.raises(finesmith.NotFoundError, match="No such job"):
        list(job.events(follow=True))
    assert len(service.asked("GET", EVENTS)) == 1


def test_what_is_no_json_is_an_error(job: finesmith.Job, service: FakeService) -> None:
    service.on("GET", EVENTS, fake_service.stream("data: {half\n\n"))
    with pytest.raises(finesmith.UnexpectedResponseError):
        list(job.events(follow=True))


def test_log_lines_go_on_into_the_next_attempt(job: finesmith.Job, service: FakeService) -> None:
    first, second, third = (examples.log_line(*place) for place in [(1, 1), (1, 10), (2, 1)])
    service.on("GET", LOGS, fake_service.stream(first, second), fake_service.stream(second, third, end=True))
    assert [line.text for line in job.logs(follow=True)] == ["line 1-1", "line 1-10", "line 2-1"]
    assert cursors(service, LOGS) == [None, "1-10"]


def test_leaving_a_followed_stream_closes_its_connection(
    client: Client, job: finesmith.Job, service: FakeService
) -> None:
    service.on("GET", EVENTS, fake_service.stream(*EVENT[1:]))
    events = job.events(follow=True)
    assert numbers(itertools.islice(events, 2)) == [1, 2]
    assert num_active_connections(client) == 1
    events.close()
    assert num_active_connections(client) == 0


def num_active_connections(client: Client) -> int:
    connections = client._transport._http._transport._pool.connections
    return sum("ACTIVE" in repr(connection) for connection in connections)
