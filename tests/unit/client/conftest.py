"""A scripted service and a client of it whose retries are quick."""

from collections.abc import Iterator

import pytest
from finesmith import Client, RetryPolicy

from tests.unit.client.fake_service import FakeService


@pytest.fixture
def service() -> Iterator[FakeService]:
    service = FakeService()
    yield service
    service.close()


@pytest.fixture
def quick() -> RetryPolicy:
    """Retries without noticeable delays, and gives an outage up after a second."""
    return RetryPolicy(max_retries=3, initial_delay_seconds=0.005, max_delay_seconds=0.02, max_outage_seconds=1.0)


@pytest.fixture
def client(service: FakeService, quick: RetryPolicy) -> Iterator[Client]:
    with Client(service.url, api_key="fsk_test", timeout=5, retry=quick) as client:
        yield client
