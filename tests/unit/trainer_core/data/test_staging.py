"""Staging against a local hub, each time in a fresh process: huggingface_hub reads its environment when imported."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_hub import FakeHub, Fault
from trainer_core.config import Config, Step
from trainer_core.errors import ModelLoadError
from trainer_core.job_spec import StepInputs
from trainer_core.staging import stage_hub_inputs

ROOT = Path(__file__).parents[4]
SCRIPT = """
import dataclasses, json, sys
import trainer_core.staging
from trainer_core.config import build_config
from trainer_core.errors import TrainerError
from trainer_core.staging import stage_hub_inputs
# How long it pauses between tries does not matter here.
trainer_core.staging._PAUSES_SECONDS = (0.01, 0.01)
for config, steps in json.loads(sys.argv[1]):
    try:
        answer = dataclasses.asdict(stage_hub_inputs(build_config(config), steps))
    except TrainerError as error:
        answer = {"code": error.code, "param": error.param, "message": error.message}
    answer["heavy"] = sorted({"torch", "transformers", "numpy"} & set(sys.modules))
    print(json.dumps(answer))
"""
LOAD_OFFLINE = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
AutoModelForCausalLM.from_pretrained(sys.argv[1]), AutoTokenizer.from_pretrained(sys.argv[2])
"""

Stage = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        yield hub


@pytest.fixture
def run_python(hub: FakeHub, tmp_path: Path) -> Callable[..., str]:
    """Runs code in a process that knows only the local hub."""

    def run(code: str, *arguments: str, **variables: str) -> str:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        known = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env={**clean, **known, **variables},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture
def stage(run_python: Callable[..., str]) -> Stage:
    """Stages for each Config in one fresh process, and returns the answers, or the errors, as fields."""

    def run(*configs: dict[str, Any], steps: str = "prepare", **variables: str) -> list[dict[str, Any]]:
        asked = json.dumps([[config, [steps]] for config in configs])
        answers = [json.loads(line) for line in run_python(SCRIPT, asked, **variables).splitlines()]
        assert [answer.pop("heavy") for answer in answers] == [[]] * len(configs)
        return answers

    return run


def test_a_sharded_model_is_staged_at_one_commit_and_loads_offline(
    hub: FakeHub, stage: Stage, run_python: Callable[..., str], tiny_model: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    source = tmp_path / "sharded"
    shutil.copytree(tiny_model, source)
    (source / "model.safetensors").unlink()
    AutoModelForCausalLM.from_pretrained(tiny_model).save_pretrained(source, max_shard_size="500KB")
    assert (source / "model.safetensors.index.json").is_file()
    for unwanted in ("pytorch_model.bin", "consolidated.00.safetensors", "run.py"):
        (source / unwanted).write_bytes(b"unwanted")
    (source / "onnx").mkdir()
    (source / "onnx" / "config.json").write_bytes(b"unwanted")
    sha = hub.add_commit("acme/model", source)
    hub.add_commit("acme/tokenizer", tiny_model)

    (staged,) = stage({"model_name_or_path": "acme/model", "tokenizer_name_or_path": "acme/tokenizer"})

    assert staged["revisions"]["acme/model"] == sha == Path(staged["model"]).name
    assert set(staged["revisions"]) == {"acme/model", "acme/tokenizer"}
    names = {path.name for path in Path(staged["model"]).iterdir()}
    assert {"config.json", "model.safetensors.index.json", "tokenizer.json"} <= names
    assert not {"pytorch_model.bin", "consolidated.00.safetensors", "run.py", "onnx"} & names
    assert not any(name.endswith(".safetensors") for name in os.listdir(staged["tokenizer"]))
    run_python(LOAD_OFFLINE, staged["model"], staged["tokenizer"], HF_HUB_OFFLINE="1")


def test_what_was_fetched_is_used_when_the_hub_is_gone(hub: FakeHub, stage: Stage, tiny_model: Path) -> None:
    hub.add_commit("acme/model", tiny_model)
    config = {"model_name_or_path": "acme/model"}
    first, again = stage(config, config)
    num_downloads = len(hub.downloads)

    (unreachable,) = stage(config, HF_ENDPOINT="http://127.0.0.1:9")
    offline, as_folder = stage(config, {"model_name_or_path": first["model"]}, HF_HUB_OFFLINE="1")

    assert first == again == unreachable == offline
    assert as_folder["revisions"] == first["revisions"]
    assert len(hub.downloads) == num_downloads


def test_a_revision_is_followed(hub: FakeHub, stage: Stage, tiny_model: Path) -> None:
    old = hub.add_commit("acme/model", tiny_model)
    new = hub.add_commit("acme/model", tiny_model)
    config = {"model_name_or_path": "acme/model"}

    newest, older, wrong = stage(config, {**config, "model_revision": old}, {**config, "model_revision": "nowhere"})

    assert (newest["revisions"], older["revisions"]) == ({"acme/model": new}, {"acme/model": old})
    assert (wrong["code"], wrong["param"]) == ("model_not_loadable", "model_revision")


def test_what_cannot_be_staged_is_an_error_that_names_the_option(hub: FakeHub, stage: Stage, tiny_model: Path) -> None:
    hub.add_commit("acme/private", tiny_model, token="hub-secret")
    hub.add_commit("acme/pickled", {"config.json": b"{}", "pytorch_model.bin": b""})
    words_of = {
        "acme/none": "neither a folder here nor a repository",
        "/no/such/folder": "there is no folder '/no/such/folder'",
        "acme/private": "that the token given can read",
        "acme/pickled": "has no weights as safetensors",
    }

    *answers, with_token = stage(
        *({"model_name_or_path": name} for name in words_of),
        {"model_name_or_path": "acme/private", "huggingface_hub_token": "hub-secret"},
    )

    for answer, words in zip(answers, words_of.values(), strict=True):
        assert (answer["code"], answer["param"]) == ("model_not_loadable", "model_name_or_path")
        assert words in answer["message"]
    assert Path(with_token["model"], "config.json").is_file()


@pytest.mark.parametrize(
    ("variables", "code", "words"),
    [
        ({"HF_HUB_OFFLINE": "1"}, "model_not_loadable", "HF_HUB_OFFLINE forbids"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "network", "could not be fetched from http://127.0.0.1:9"),
    ],
)
def test_without_a_hub_what_is_not_cached_cannot_be_staged(
    stage: Stage, variables: dict[str, str], code: str, words: str
) -> None:
    (answer,) = stage({"model_name_or_path": "acme/none"}, **variables)
    assert (answer["code"], answer["param"]) == (code, "model_name_or_path")
    assert words in answer["message"]


def test_a_hub_that_refuses_or_is_ill_ends_in_an_error_that_names_the_option(
    hub: FakeHub, stage: Stage, tiny_model: Path
) -> None:
    gated = {"X-Error-Code": "GatedRepo"}
    cases = {
        "bad-token": (Fault("bad-token", status=401), "model_not_loadable", "huggingface_hub_token"),
        "forbidden": (Fault("forbidden", status=403), "model_not_loadable", "answered 403"),
        "gated": (Fault("gated", status=403, headers=gated), "model_not_loadable", "accept its terms"),
        "gone": (Fault("gone", status=404), "model_not_loadable", "answered 404"),
        "busy": (Fault("busy", status=429, headers={"Retry-After": "0"}), "network", "429"),
        "ill": (Fault("ill", status=500), "network", "500"),
    }
    for name, (fault, _, _) in cases.items():
        hub.add_commit(f"acme/{name}", tiny_model)
        fault.times = 99
        hub.inject(fault)

    answers = stage(*({"model_name_or_path": f"acme/{name}"} for name in cases))

    for answer, (fault, code, words) in zip(answers, cases.values(), strict=True):
        assert (answer["code"], answer["param"]) == (code, "model_name_or_path"), fault
        assert words in answer["message"]
        assert 99 - fault.times == (6 if code == "network" else 1), "one that is ill is asked again, a few times"


def test_what_another_token_has_fetched_is_not_given_to_whoever_may_not_read_it(
    hub: FakeHub, stage: Stage, tiny_model: Path
) -> None:
    sha = hub.add_commit("acme/private", tiny_model, token="hub-secret")
    config = {"model_name_or_path": "acme/private"}

    known, *unknown = stage(
        {**config, "huggingface_hub_token": "hub-secret"},
        config,
        {**config, "model_revision": sha},
        {**config, "huggingface_hub_token": "hub-other"},
    )

    assert known["revisions"] == {"acme/private": sha}
    assert [(answer.get("code"), answer.get("param")) for answer in unknown] == [
        ("model_not_loadable", "model_name_or_path")
    ] * 3


def test_a_hub_that_stumbles_is_asked_again(hub: FakeHub, stage: Stage, tiny_model: Path) -> None:
    faults = [
        Fault("/api/models/acme/a", status=503),
        Fault("/api/models/acme/b", drop_after_bytes=0),
        Fault("acme/c/tree/", status=429, headers={"Retry-After": "0"}),
        Fault("acme/d/.*model.safetensors", "GET", drop_after_bytes=0),
    ]
    shas = [hub.add_commit(f"acme/{letter}", tiny_model) for letter in "abcd"]
    for fault in faults:
        hub.inject(fault)

    answers = stage(*({"model_name_or_path": f"acme/{letter}"} for letter in "abcd"))

    assert [answer["revisions"] for answer in answers] == [
        {f"acme/{letter}": sha} for letter, sha in zip("abcd", shas, strict=True)
    ]
    assert [fault.times for fault in faults] == [0] * 4


def test_an_adapter_is_staged_for_fuse_alone(hub: FakeHub, stage: Stage, tiny_model: Path) -> None:
    files = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"", "optimizer.pt": b""}
    sha = hub.add_commit("acme/adapter", files)
    config = {"model_name_or_path": str(tiny_model), "lora_hub_model_id": "acme/adapter", "apply_lora": True}

    (staged,) = stage(config, steps="fuse")

    assert sorted(os.listdir(staged["adapter"])) == ["adapter_config.json", "adapter_model.safetensors"]
    assert staged["revisions"] == {"acme/adapter": sha}
    plain = Config(**config)
    assert stage_hub_inputs(plain, (Step.TRAIN, Step.FUSE)).adapter is None


def test_a_local_folder_stays_where_it_is(tiny_model: Path) -> None:
    config = Config(model_name_or_path=str(tiny_model), tokenizer_name_or_path=str(tiny_model))
    staged = stage_hub_inputs(config, (Step.PREPARE, Step.TRAIN))
    assert (staged.model, staged.tokenizer, staged.revisions) == (str(tiny_model), str(tiny_model), {})


def test_a_model_that_is_given_is_not_fetched() -> None:
    config = Config(model_name_or_path="acme/none")
    assert stage_hub_inputs(config, (Step.QUANTIZE,), inputs=StepInputs(model="/given")).model is None


def test_a_local_adapter_must_be_one(tiny_model: Path) -> None:
    config = Config(model_name_or_path=str(tiny_model), lora_model_local_path=str(tiny_model), apply_lora=True)
    with pytest.raises(ModelLoadError, match="adapter_config") as caught:
        stage_hub_inputs(config, (Step.FUSE,))
    assert caught.value.param == "lora_model_local_path"


def test_the_cache_that_an_administrator_shares_is_read_at_the_hubs_commit(
    hub: FakeHub, stage: Stage, tiny_model: Path, tmp_path: Path
) -> None:
    sha = hub.add_commit("acme/model", tiny_model)
    folder = tmp_path / "shared" / "models--acme--model" / "snapshots" / sha
    shutil.copytree(tiny_model, folder)
    newer = hub.add_commit("acme/model", tiny_model)
    config = {"model_name_or_path": "acme/model"}

    shared, own = stage({**config, "model_revision": sha}, config, FINESMITH_SHARED_HUB_CACHE=str(tmp_path / "shared"))

    assert (shared["model"], shared["revisions"]) == (str(folder), {"acme/model": sha})
    assert own["revisions"] == {"acme/model": newer}
    assert str(tmp_path / "shared") not in own["model"]


def test_a_model_in_pickles_alone_is_refused_and_not_fetched(hub: FakeHub, stage: Stage) -> None:
    names = ["pytorch_model.bin", "weights.pt", "weights.pth", "model.ckpt", "weights.pkl"]
    for number, name in enumerate(names):
        hub.add_commit(f"acme/pickled-{number}", {"config.json": b"{}", name: b"pickled"})
    for answer in stage(*({"model_name_or_path": f"acme/pickled-{number}"} for number in range(len(names)))):
        assert (answer["code"], answer["param"]) == ("model_not_loadable", "model_name_or_path")
        assert "save_pretrained" in answer["message"]
    assert [download for download in hub.downloads if "config.json" not in str(download)] == []
