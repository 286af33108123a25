"""What is found out about a token before any work is done, with the real client against a local hub."""

import pytest

from tests.support.fake_hub import FakeHub, Fault
from tests.unit.trainer_core.hub.conftest import TOKEN
from trainer_core.config import Step
from trainer_core.errors import NetworkError, PushError
from trainer_core.hub import access
from trainer_core.hub.access import prepare_repositories
from trainer_core.hub.targets import PushTarget


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    # The tries are what counts here, not the time between them.
    monkeypatch.setattr(access.time, "sleep", lambda seconds: None)


def test_a_missing_repository_is_made_with_the_visibility_that_was_asked(hub_here: FakeHub) -> None:
    targets = [
        PushTarget(Step.TRAIN, "acme/a", is_private=True, param="hub_model_id"),
        PushTarget(Step.FUSE, "b", is_private=False, param="fused_hub_model_id"),
    ]

    prepared = prepare_repositories(targets, token=TOKEN)

    assert [target.repository for target in prepared] == ["acme/a", "acme/b"]
    assert [hub_here.pushed(name).is_private for name in ("acme/a", "acme/b")] == [True, False]
    assert prepare_repositories(targets, token=TOKEN) == prepared


def test_a_token_without_write_rights_is_refused_before_anything(hub_here: FakeHub, target: PushTarget) -> None:
    hub_here.add_user("acme", token="hf_reader", rights="read")
    hub_here.add_commit("acme/adapter", {"a": b""}, is_private=True)

    for token in ("hf_reader", "hf_unknown", "", None):
        with pytest.raises(PushError) as caught:
            prepare_repositories([target], token=token)
        assert caught.value.param == "huggingface_hub_token"
        assert "hub_model_id" in caught.value.message or "valid" in caught.value.message


@pytest.mark.parametrize("name", ["stranger/adapter", "nobody-there/adapter"])
def test_a_namespace_of_somebody_else_is_refused(hub_here: FakeHub, name: str) -> None:
    hub_here.add_commit("stranger/adapter", {"a": b""})

    with pytest.raises(PushError, match="write rights") as caught:
        prepare_repositories([PushTarget(Step.TRAIN, name, is_private=False, param="hub_model_id")], token=TOKEN)

    assert caught.value.param == "huggingface_hub_token"


def test_an_organization_of_the_user_is_open(hub_here: FakeHub) -> None:
    hub_here.add_user("bob", token="hf_bob", organizations=("acme",))
    wanted = PushTarget(Step.TRAIN, "acme/team", is_private=True, param="hub_model_id")
    assert prepare_repositories([wanted], token="hf_bob") == (wanted,)


def test_a_public_repository_is_not_filled_where_a_private_one_is_asked(hub_here: FakeHub, target: PushTarget) -> None:
    hub_here.add_commit("acme/adapter", {"a": b""})

    with pytest.raises(PushError, match="public repository") as caught:
        prepare_repositories([target], token=TOKEN)

    assert caught.value.param == "hub_private_repo"


def test_two_names_of_one_repository_are_refused(hub_here: FakeHub) -> None:
    targets = [
        PushTarget(Step.TRAIN, "acme/a", is_private=True, param="hub_model_id"),
        PushTarget(Step.FUSE, "a", is_private=True, param="fused_hub_model_id"),
    ]
    with pytest.raises(PushError, match="another step") as caught:
        prepare_repositories(targets, token=TOKEN)
    assert caught.value.param == "fused_hub_model_id"


@pytest.mark.parametrize(
    "fault",
    [
        Fault("/api/repos/create", status=500),
        Fault("/api/repos/create", status=429, headers={"Retry-After": "1"}),
        Fault("/api/repos/create", loses_answer=True),
        Fault("auth-check", drop_after_bytes=0),
    ],
)
def test_a_hub_that_stumbles_is_asked_again(hub_here: FakeHub, target: PushTarget, fault: Fault) -> None:
    hub_here.inject(fault)
    assert prepare_repositories([target], token=TOKEN) == (target,)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_hub_that_stays_down_is_a_network_error_that_may_be_retried(
    hub_here: FakeHub, target: PushTarget, status: int
) -> None:
    hub_here.inject(Fault("/api/repos/create", status=status, times=99))

    with pytest.raises(NetworkError, match=str(status)) as caught:
        prepare_repositories([target], token=TOKEN)

    assert (caught.value.param, caught.value.retryable) == ("hub_model_id", True)
    assert hub_here.requests.count("POST /api/repos/create") == 4


def test_a_hub_that_does_not_know_the_question_of_write_rights_is_believed(
    hub_here: FakeHub, target: PushTarget
) -> None:
    hub_here.inject(Fault("auth-check", status=404))
    assert prepare_repositories([target], token=TOKEN) == (target,)


def test_nothing_to_push_asks_nothing(hub_here: FakeHub) -> None:
    assert prepare_repositories([], token=None) == ()
    assert hub_here.requests == []
