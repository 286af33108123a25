"""Code that comes with a model: none runs unasked, and asked for only that of the pinned commit."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from trainer_core.attempt.model_code import check_model_code
from trainer_core.attempt.staged_inputs import StagedRecord
from trainer_core.config import Config
from trainer_core.errors import ModelLoadError

SHA = "a" * 40
CODE = "import pathlib\npathlib.Path({sentinel!r}).touch()\nclass Evil: pass\n"
LOAD = """
import sys
from trainer_core.config import Config
from trainer_core.evaluation import load_for_inference
from trainer_core.tokenizers.loading import build_tokenizer
for name in sys.argv[1:]:
    config = Config(model_name_or_path=name)
    loads = {"model": lambda: load_for_inference(name, config), "tokenizer": lambda: build_tokenizer(config)}
    for what, load in loads.items():
        try:
            load()
        except Exception as error:
            print(name.rpartition("/")[2], what, type(error).__name__)
"""


def write_settings(folder: Path, name: str, **settings: object) -> None:
    path = folder / name
    given = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**given, **settings}))


def make_record(folder: Path, **fields: object) -> StagedRecord:
    return StagedRecord(**{"model": str(folder), "tokenizer": str(folder), "revisions": {"acme/model": SHA}, **fields})


def make_config(**fields: object) -> Config:
    return Config(**{"model_name_or_path": "acme/model", "model_revision": SHA, "trust_remote_code": True, **fields})


def test_the_models_own_code_at_the_pinned_commit_is_fine(tmp_path: Path) -> None:
    write_settings(tmp_path, "config.json", auto_map={"AutoModelForCausalLM": "modeling.Own"})
    check_model_code(make_config(), make_record(tmp_path))


@pytest.mark.parametrize(
    ("config", "revisions"),
    [
        ({"model_revision": "main"}, {"acme/model": SHA}),
        ({"model_revision": SHA[:12]}, {"acme/model": SHA}),
        ({"model_revision": None}, {"acme/model": SHA}),
        ({"model_name_or_path": "/models/tiny"}, {}),
    ],
    ids=["a branch", "a short sha", "no revision", "a local folder"],
)
def test_code_that_no_whole_sha_pins_is_refused(tmp_path: Path, config: dict, revisions: dict) -> None:
    with pytest.raises(ModelLoadError, match="whole sha") as caught:
        check_model_code(make_config(**config), make_record(tmp_path, revisions=revisions))
    assert caught.value.param == "trust_remote_code"


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("config.json", {"auto_map": {"AutoConfig": "evil/other--configuration.Evil"}}),
        ("config.json", {"text_config": {"auto_map": {"AutoModel": "evil/other--modeling.Evil"}}}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil/other--t.Slow", None]}}),
        ("tokenizer_config.json", {"auto_map": ["t.Slow", "evil/other--t.Fast"]}),
        ("processor_config.json", {"auto_map": {"AutoProcessor": "evil/other--p.P"}}),
    ],
)
def test_code_of_another_repository_is_refused_wherever_it_is_named(tmp_path: Path, name: str, settings: dict) -> None:
    write_settings(tmp_path, name, **settings)
    with pytest.raises(ModelLoadError, match="another repository") as caught:
        check_model_code(make_config(), make_record(tmp_path))
    assert caught.value.param == "trust_remote_code"


@pytest.mark.parametrize(
    ("field", "param"), [("tokenizer", "tokenizer_name_or_path"), ("adapter", "lora_hub_model_id")]
)
def test_code_of_a_tokenizer_or_an_adapter_is_refused(tmp_path: Path, field: str, param: str) -> None:
    (model := tmp_path / "model").mkdir()
    (other := tmp_path / "other").mkdir()
    check_model_code(make_config(), make_record(model, **{field: str(other)}))
    write_settings(other, "tokenizer_config.json", auto_map={"AutoTokenizer": ["t.Own", None]})
    with pytest.raises(ModelLoadError, match="leave it out") as caught:
        check_model_code(make_config(), make_record(model, **{field: str(other)}))
    assert caught.value.param == param


@pytest.mark.parametrize("depth", [100, 100_000])
def test_settings_that_are_nested_too_deeply_are_an_error(tmp_path: Path, depth: int) -> None:
    (tmp_path / "config.json").write_text('{"a":' * depth + "1" + "}" * depth)
    with pytest.raises(ModelLoadError, match="nested too deeply"):
        check_model_code(make_config(), make_record(tmp_path))


def make_trap(folder: Path, base: Path, *, sentinel: Path, model_type: str | None = None) -> Path:
    """A tiny model that names code of its own in every file that can; the code would make the file `sentinel`."""
    shutil.copytree(base, folder)
    (folder / "evil.py").write_text(CODE.format(sentinel=str(sentinel)))
    names = ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoTokenizer")
    trap = {"auto_map": dict.fromkeys(names, "evil.Evil"), "trust_remote_code": True}
    write_settings(folder, "config.json", **trap, **({} if model_type is None else {"model_type": model_type}))
    write_settings(folder, "tokenizer_config.json", **trap, tokenizer_class="Evil")
    write_settings(folder, "generation_config.json", **trap, custom_generate="evil.py")
    return folder


def make_pickled(folder: Path, base: Path, *, sentinel: Path) -> Path:
    """A tiny model beside pickles that would make the file `sentinel`."""
    shutil.copytree(base, folder)
    pickled = f"cpathlib\nPath.touch\n(cpathlib\nPath\n(S'{sentinel}'\ntRtR.".encode()
    for name in ("pytorch_model.bin", "model.pt", "training_args.bin"):
        (folder / name).write_bytes(pickled)
    return folder


def test_no_code_and_no_pickle_of_a_folder_runs_unasked(tiny_model: Path, tmp_path: Path) -> None:
    sentinel = tmp_path / "it-ran"
    folders = [
        make_trap(tmp_path / "known", tiny_model, sentinel=sentinel),
        make_trap(tmp_path / "unknown", tiny_model, sentinel=sentinel, model_type="evil"),
        make_pickled(tmp_path / "both", tiny_model, sentinel=sentinel),
        make_pickled(tmp_path / "pickled", tiny_model, sentinel=sentinel),
    ]
    for path in folders[-1].glob("*.safetensors"):
        path.unlink()
    argv = [sys.executable, "-c", LOAD, *map(str, folders)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert not sentinel.exists()
    said = [line.split() for line in done.stdout.splitlines()]
    # A kind of model that nobody here knows cannot be loaded without its code; pickles cannot be loaded at all.
    assert ["unknown", "model", "ModelLoadError"] in said
    assert ["pickled", "model", "ModelLoadError"] in said
    assert [words for words in said if words[0] == "both"] == []
