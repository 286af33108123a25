"""Pushes of folders with the real client against a local hub: what is sent, and that it survives a bad line."""

import hashlib
import json
from pathlib import Path

import pytest
from huggingface_hub import constants

from tests.support.fake_hub import FakeHub, Fault
from tests.unit.trainer_core.hub.conftest import TOKEN, write_safetensors
from trainer_core.config import Config
from trainer_core.errors import NetworkError, PushError
from trainer_core.hub.access import prepare_repositories
from trainer_core.hub.card import CardSubject
from trainer_core.hub.failures import translate_push_error
from trainer_core.hub.pushing import Push, push_folder
from trainer_core.hub.targets import PushTarget
from trainer_core.hub.uploading import PushedCommit
from trainer_core.redaction import Redactor

# The client's own way to send a file, of which the HTTP library wants another.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def push(hub_here: FakeHub, target: PushTarget, tmp_path: Path):
    """Pushes a folder to the target as a script does."""

    def run(folder: Path, *, step: int | None = None, redactor: Redactor | None = None, **keys) -> PushedCommit:
        config = Config(model_name_or_path="acme/base", huggingface_hub_token=TOKEN, **keys)
        subject = CardSubject("adapter", target.repository, "acme/base", config, global_step=step)
        (whole,) = prepare_repositories([target], token=TOKEN)
        redactor = redactor or Redactor((TOKEN,))
        return push_folder(Push(folder, whole, subject, TOKEN, redactor, scratch=tmp_path / "scratch"))

    return run


def test_a_checkpoint_is_one_commit_with_adapter_tokenizer_and_card_alone(
    hub_here: FakeHub, push, adapter: Path
) -> None:
    pushed = push(adapter, step=2)

    repository = hub_here.pushed("acme/adapter")
    assert set(repository.files) == {
        *(".gitattributes", "README.md", "adapter_config.json", "adapter_model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json"),
    }
    assert repository.files["adapter_model.safetensors"] == (adapter / "adapter_model.safetensors").read_bytes()
    assert repository.summaries == {pushed.commit: "Checkpoint of step 2"}
    assert pushed.url == f"{hub_here.url}/acme/adapter"
    assert b"checkpoint of step 2" in repository.files["README.md"]


def test_no_pushed_byte_holds_the_token_or_a_path_of_this_host(
    hub_here: FakeHub, push, adapter: Path, tmp_path: Path
) -> None:
    (adapter / "tokenizer_config.json").write_text(json.dumps({"note": f"made with {TOKEN}"}))
    redactor = Redactor((TOKEN,), public_names={str(tmp_path / "base"): "local:base"})

    push(adapter, redactor=redactor)

    settings = json.loads(hub_here.pushed("acme/adapter").files["adapter_config.json"])
    assert settings["base_model_name_or_path"] == "local:base"
    assert b"canary" in (adapter / "tokenizer_config.json").read_bytes()
    for content in (*hub_here.bodies, *hub_here.pushed("acme/adapter").files.values()):
        assert b"canary" not in content
        assert str(tmp_path).encode() not in content


def test_the_pushed_tokenizer_adds_its_bos_and_the_local_one_stays(hub_here: FakeHub, push, adapter: Path) -> None:
    before = (adapter / "tokenizer_config.json").read_bytes()

    push(adapter, push_to_hub_bos_add_bos_token=True)

    settings = json.loads(hub_here.pushed("acme/adapter").files["tokenizer_config.json"])
    assert (settings["add_bos_token"], settings["add_eos_token"], settings["eos_token"]) == (True, False, "</s>")
    assert (adapter / "tokenizer_config.json").read_bytes() == before


@pytest.mark.parametrize(
    "fault",
    [
        Fault("/lfs/", "PUT", drop_after_bytes=4096),
        Fault("/lfs/", "PUT", drop_after_bytes=4096, times=3),
        Fault("/lfs/", "PUT", status=500),
        Fault("/preupload/", status=429, headers={"Retry-After": "0"}),
        Fault("/objects/batch", drop_after_bytes=10),
        Fault("/commit/", drop_after_bytes=10),
        Fault("/commit/", status=503),
        Fault("validate-yaml", status=500),
    ],
    ids=lambda fault: f"{fault.path}-{fault.status or 'dropped'}-{fault.times}",
)
def test_an_upload_survives(hub_here: FakeHub, push, adapter: Path, fault: Fault, fast_retries) -> None:
    hub_here.inject(fault)

    push(adapter)

    pushed = hub_here.pushed("acme/adapter")
    assert fault.times == 0
    assert pushed.files["adapter_model.safetensors"] == (adapter / "adapter_model.safetensors").read_bytes()
    assert len(pushed.summaries) == 1


def test_a_commit_whose_answer_was_lost_is_not_made_twice(hub_here: FakeHub, push, adapter: Path, fast_retries) -> None:
    hub_here.inject(Fault("/commit/", loses_answer=True))

    pushed = push(adapter)

    assert list(hub_here.pushed("acme/adapter").summaries) == [pushed.commit]
    assert push(adapter) == pushed, "nothing has changed"


def test_parts_of_a_large_file_survive_a_broken_connection(
    hub_here: FakeHub, push, adapter: Path, fast_retries
) -> None:
    hub_here.part_bytes = 4000
    fault = hub_here.inject(Fault(r"/lfs/\w+/2", "PUT", drop_after_bytes=1000))

    push(adapter)

    content = (adapter / "adapter_model.safetensors").read_bytes()
    assert fault.times == 0
    assert hub_here.objects[hashlib.sha256(content).hexdigest()] == content
    assert len(hub_here.parts) == 3


def test_what_the_hub_has_is_not_sent_again(hub_here: FakeHub, push, adapter: Path) -> None:
    push(adapter)
    num_uploads = sum(request.startswith("PUT") for request in hub_here.requests)
    (adapter / "adapter_config.json").write_text('{"r": 16}')

    push(adapter)

    assert sum(request.startswith("PUT") for request in hub_here.requests) == num_uploads
    assert len(hub_here.pushed("acme/adapter").summaries) == 2


def test_a_hub_that_stays_down_ends_in_an_error_that_may_be_retried(
    hub_here: FakeHub, push, adapter: Path, fast_retries
) -> None:
    hub_here.inject(Fault("/commit/", status=500, times=99))

    with pytest.raises(NetworkError, match="500") as caught:
        push(adapter)

    assert (caught.value.retryable, caught.value.param) == (True, "hub_model_id")
    assert hub_here.pushed("acme/adapter").summaries == {}


def test_rights_that_were_taken_away_name_the_token(hub_here: FakeHub, push, adapter: Path) -> None:
    hub_here.inject(Fault("/commit/", status=403))

    with pytest.raises(PushError, match="write rights") as caught:
        push(adapter)

    assert (caught.value.retryable, caught.value.param) == (False, "huggingface_hub_token")


def test_weights_are_split_for_the_push_and_what_was_there_is_replaced(hub_here: FakeHub, push, tmp_path: Path) -> None:
    from safetensors import safe_open

    folder = tmp_path / "fused"
    folder.mkdir()
    tensors = {f"layer.{number}": bytes([number]) * 3000 for number in range(5)}
    write_safetensors(folder / "model.safetensors", tensors)
    (folder / "config.json").write_text("{}")
    hub_here.add_commit(
        "acme/adapter",
        {"model-00009-of-00009.safetensors": b"old", "adapter_model.safetensors": b"not ours", "notes.txt": b"n"},
        is_private=True,
    )

    push(folder, max_shard_size="7KB")

    files = hub_here.pushed("acme/adapter").files
    names = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    assert set(files) == {
        *names,
        *("model.safetensors.index.json", "config.json", "README.md", "adapter_model.safetensors", "notes.txt"),
    }
    index = json.loads(files["model.safetensors.index.json"])
    assert index["metadata"]["total_size"] == 15_000
    for name in names:
        path = tmp_path / name
        path.write_bytes(files[name])
        with safe_open(path, framework="numpy") as opened:
            for tensor in opened.keys():  # noqa: SIM118 - not a mapping
                assert index["weight_map"][tensor] == name
                assert opened.get_tensor(tensor).tobytes() == tensors.pop(tensor)
    assert tensors == {}
    assert not (tmp_path / "scratch").exists()


def test_a_folder_without_weights_is_refused(push, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(PushError, match="no weights"):
        push(tmp_path)


def test_a_hub_without_xet_storage_is_told_with_what_to_set(
    push, adapter: Path, monkeypatch: pytest.MonkeyPatch, fast_retries
) -> None:
    pytest.importorskip("hf_xet")
    # As where HF_HUB_DISABLE_XET is not set.
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)

    with pytest.raises(PushError, match="HF_HUB_DISABLE_XET=1") as caught:
        push(adapter)

    assert (caught.value.param, caught.value.retryable) == ("hub_model_id", False)


@pytest.mark.parametrize(
    ("error", "kind", "param"),
    [
        (ConnectionError("client error (404 Not Found), domain: http://hub"), PushError, "hub_model_id"),
        (ConnectionError("client error (403 Forbidden), domain: http://hub"), PushError, "huggingface_hub_token"),
        (PermissionError("unauthorized: http://hub"), PushError, "huggingface_hub_token"),
        (ConnectionError("broken pipe: http://hub:40404"), NetworkError, "hub_model_id"),
        (RuntimeError("the upload was lost"), NetworkError, "hub_model_id"),
        (PermissionError(13, "Permission denied", "/workspace/model.safetensors"), None, None),
    ],
)
def test_errors_of_the_xet_client_are_told_apart_from_those_of_this_disk(
    target: PushTarget, error: Exception, kind: type[Exception] | None, param: str | None
) -> None:
    translated = translate_push_error(error, target)
    assert (type(translated) if translated else None, getattr(translated, "param", None)) == (kind, param)
