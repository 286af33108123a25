"""Where the client takes its address and its key from."""

import pytest
from finesmith import Client, ConfigurationError
from finesmith.settings import build_settings


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FINESMITH_BASE_URL", raising=False)
    monkeypatch.delenv("FINESMITH_API_KEY", raising=False)


def test_address_and_key_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINESMITH_BASE_URL", "http://gpu-host:9000/")
    monkeypatch.setenv("FINESMITH_API_KEY", "fsk_env")
    settings = build_settings()
    assert (settings.base_url, settings.api_key) == ("http://gpu-host:9000", "fsk_env")


def test_arguments_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINESMITH_BASE_URL", "http://gpu-host:9000")
    monkeypatch.setenv("FINESMITH_API_KEY", "fsk_env")
    settings = build_settings("https://other", api_key="fsk_arg")
    assert (settings.base_url, settings.api_key) == ("https://other", "fsk_arg")


@pytest.mark.parametrize(
    ("given", "used"),
    [
        (None, "http://127.0.0.1:8000"),
        ("http://h:1/", "http://h:1"),
        ("http://h:1/v1", "http://h:1"),  # as OpenAI's clients want it
        ("http://h:1/v1/", "http://h:1"),
        ("https://h/tuning", "https://h/tuning"),  # behind a proxy's path
    ],
)
def test_the_address_is_cleaned(given: str | None, used: str) -> None:
    assert build_settings(given, api_key="k").base_url == used


@pytest.mark.parametrize(
    "url",
    ["gpu-host:8000", "ftp://h", "http://", "http://h?x=1", "http://h:99999", "http://[::1", "http://user:secret@h"],
)
def test_an_address_that_cannot_be_meant_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="base_url"):
        Client(url, api_key="k")


def test_a_missing_key_is_refused_and_the_ways_to_give_it_are_named() -> None:
    with pytest.raises(ConfigurationError, match="FINESMITH_API_KEY"):
        Client("http://h")


@pytest.mark.parametrize("key", ["two words", "fsk_a\nfsk_b", "schlüssel"])
def test_a_key_that_no_header_can_hold_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Client("http://h", api_key=key)
    assert key.strip() not in str(caught.value)


def test_the_key_is_not_shown() -> None:
    client = Client("http://h", api_key="fsk_secret")
    assert "fsk_secret" not in repr(client) + repr(client._transport.settings)
    client.close()


def test_a_line_break_from_the_key_s_file_is_left_out() -> None:
    assert build_settings("http://h", api_key="fsk_a\n").api_key == "fsk_a"
