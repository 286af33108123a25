"""The load measurements in short form: fewer jobs, clients and seconds, and bounds that a busy machine keeps."""

import pytest

from bench.load_lists import fill, measure_lists
from bench.load_service import run_loaded
from bench.load_soak import measure_soak
from bench.load_streams import measure_streams, measure_waiting

BUSY = 5
"""How much slower than the goal a busy machine may be; memory and counts are excused nothing."""


def hold(figures):
    for figure in figures:
        excuse = BUSY if figure.unit == "s" else 1
        assert figure.least is None or figure.value >= figure.least, figure
        assert figure.most is None or figure.value <= excuse * figure.most, figure


@pytest.fixture(scope="module")
def loaded():
    with run_loaded("sqlite") as loaded:
        yield loaded


def test_waiting_clients_hold_nothing_that_others_need(loaded):
    """With a thread each, 45 of them were enough to keep everybody out for seconds."""
    hold(measure_waiting(loaded, num_clients=100, seconds=1))


@pytest.mark.slow
def test_many_streams_get_every_event_and_cost_little(loaded):
    figures = measure_streams(loaded, num_clients=150, num_jobs=10, seconds=4)
    hold(figures)
    assert figures[0].value < 60, figures[0]


@pytest.mark.slow
@pytest.mark.parametrize("database", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def test_a_page_costs_the_same_however_long_the_list_is(database):
    with run_loaded(database) as loaded:
        fill(loaded, num_jobs=2_500, num_events=60_000)
        hold(measure_lists(loaded, database=database, num_event_lists=50))


@pytest.mark.slow
def test_finished_jobs_leave_nothing_in_use():
    hold(measure_soak(num_jobs=100))
