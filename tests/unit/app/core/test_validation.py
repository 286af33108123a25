"""What is refused before the queue, and how it is named."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from app.jobs.catalogue import BUILT_IN_REGISTRIES, Catalogue, PluginError, built_in_catalogue
from app.jobs.commands import JobSubmission
from app.jobs.errors import InvalidSubmission, Problem
from app.jobs.views import Resources
from app.jobs.workers import WorkerInfo
from tests.support.installation import CONFIG, OWNER, CoreInstallation, open_installation


def find_problems(core: CoreInstallation, config: Mapping[str, Any] | None = None, **fields: Any) -> list[Problem]:
    submission = JobSubmission(config={**CONFIG, **(config or {})}, **fields)
    problems = core.jobs.validate(OWNER, submission).problems
    if problems:
        with pytest.raises(InvalidSubmission):
            core.jobs.submit(OWNER, submission)
    else:
        core.jobs.submit(OWNER, submission)
    return list(problems)


@pytest.mark.parametrize(
    ("config", "param", "message"),
    [
        ({"lora_rang": 4}, "config.lora_rang", "'lora_rank'"),
        ({"lora_rank": "many"}, "config.lora_rank", "lora_rank"),
        ({"load_in_4bit": True, "load_in_8bit": True}, "config.load_in_4bit", "exclude each other"),
        ({"output_dir": "/etc"}, "config.output_dir", "artifacts"),
        ({"train_local_path_to_data": "/x"}, "config.train_local_path_to_data", "training_file"),
        ({"path_to_env_file": "/root/.env"}, "config.path_to_env_file", "huggingface_hub_token"),
        ({"local_rank": 1}, "config.local_rank", "resources.gpus"),
        ({"single_gpu": True}, "config.single_gpu", "resources.gpus"),
        ({"trainer_key": "lmm"}, "config.trainer_key", "'lm'"),
        ({"config_key": "mine"}, "config.config_key", "configs_registry"),
        ({"model_name_or_path": "/models/llama"}, "config.model_name_or_path", "owner/name"),
        ({"model_name_or_path": "../x"}, "config.model_name_or_path", "owner/name"),
        ({"model_name_or_path": "local:../x"}, "config.model_name_or_path", "owner/name"),
        ({"model_name_or_path": "local:.."}, "config.model_name_or_path", "owner/name"),
        ({"model_name_or_path": "local:x"}, "config.model_name_or_path", "FINESMITH_MODEL_ROOT"),
        ({"tokenizer_name_or_path": "gpt2"}, "config.tokenizer_name_or_path", "owner/name"),
        ({"lora_hub_model_id": "x"}, "config.lora_hub_model_id", "owner/name"),
        ({"trust_remote_code": True}, "config.trust_remote_code", "administrator"),
        ({"quantization_dataset_id": "rows"}, "config.quantization_dataset_id", "file's id"),
        ({"quantization_dataset_id": "/etc/rows.jsonl"}, "config.quantization_dataset_id", "upload the rows"),
        ({"quantization_dataset_id": "owner/rows:"}, "config.quantization_dataset_id", "owner/name"),
        ({"quantization_dataset_id": "file-nope"}, "config.quantization_dataset_id", "no such file"),
        ({"deepspeed_config_path": "/etc/ds.json"}, "config.deepspeed_config_path", "local:<name>"),
        ({"deepspeed_config_path": "ds.json"}, "config.deepspeed_config_path", "local:<name>"),
        ({"deepspeed_config_path": "local:../ds.json"}, "config.deepspeed_config_path", "local:<name>"),
        ({"deepspeed_config_path": "local:ds.json"}, "config.deepspeed_config_path", "FINESMITH_CONFIG_ROOT"),
        ({"push_to_hub": True}, "config.hub_model_id", "owner/name"),
        (
            {"push_to_hub": True, "hub_model_id": "a/b", "quantized_hub_model_id": "A/b"},
            "config.quantized_hub_model_id",
            "two pushes",
        ),
        ({"huggingface_hub_token": "two words"}, "config.huggingface_hub_token", "no spaces"),
        ({"wandb_api_key": "line\nbreak"}, "config.wandb_api_key", "no spaces"),
        ({"chat_template": "chatlm"}, "config.chat_template", "chatml"),
        ({"collator_separator": "a\0b"}, "config.collator_separator", "NUL"),
        ({"dataset_key": "general"}, "training_file", "brings no data"),
    ],
)
def test_config_is_refused_naming_the_key(
    core: CoreInstallation, config: dict[str, Any], param: str, message: str
) -> None:
    found = {problem.param: problem.message for problem in find_problems(core, config)}
    assert list(found) == [param]
    assert message in found[param]


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"steps": ["train", "prepare"]}, "steps", "order"),
        ({"steps": ["prepair"]}, "steps", "'prepare'"),
        ({"steps": []}, "steps", "at least one"),
        ({"steps": ["fuse"]}, "steps", "adapter"),
        ({"training_file": "file-nope"}, "training_file", "no such file"),
        ({"training_file": "file-" + "0" * 26}, "training_file", "no such file"),
        ({"validation_file": "file-nope"}, "validation_file", "no such file"),
        ({"input_job": "job-nope"}, "input_job", "no such job"),
        ({"priority": 101}, "priority", "-100 and 100"),
        ({"max_attempts": 0}, "max_attempts", "1 and 100"),
        ({"max_runtime_seconds": 0}, "max_runtime_seconds", "above 0"),
        ({"max_runtime_seconds": float("nan")}, "max_runtime_seconds", "above 0"),
        ({"resources": Resources(gpus=-1)}, "resources.gpus", "0 or more"),
        ({"name": ""}, "name", "1 to 256"),
        ({"name": "a\0"}, "name", "1 to 256"),
        ({"metadata": {str(i): "" for i in range(17)}}, "metadata", "16 pairs"),
        ({"metadata": {"": "x"}}, "metadata", "1 to 64"),
        ({"metadata": {"a": "x" * 513}}, "metadata", "512"),
        ({"metadata": {"a": "\ud800"}}, "metadata", "512"),
    ],
)
def test_submission_is_refused_naming_the_field(
    core: CoreInstallation, fields: dict[str, Any], param: str, message: str
) -> None:
    found = {problem.param: problem.message for problem in find_problems(core, **fields)}
    assert list(found) == [param]
    assert message in found[param]


def test_all_problems_are_found_at_once(core: CoreInstallation) -> None:
    problems = find_problems(
        core,
        {"lora_rang": 1, "output_dir": "x", "dataset_key": "chatt", "lora_rank": 0, "model_name_or_path": "x"},
        steps=["train", "prepare"],
        training_file="file-x",
        priority=1000,
    )
    assert {problem.param for problem in problems} == {
        "config.lora_rang",
        "config.output_dir",
        "config.dataset_key",
        "config.lora_rank",
        "config.model_name_or_path",
        "steps",
        "training_file",
        "priority",
    }


def test_wrong_secret_is_not_repeated(core: CoreInstallation) -> None:
    problems = find_problems(core, {"huggingface_hub_token": ["hf_secret"]})
    assert [problem.param for problem in problems] == ["config.huggingface_hub_token"]
    assert "hf_secret" not in problems[0].message


@pytest.mark.parametrize(
    ("row", "key"),
    [
        ('{"messages": []}', "chat"),
        ('{"text_parts": []}', "general"),
        ('{"text": ""}', "general"),
        ('{"prompt": ""}', None),
    ],
)
def test_data_set_is_chosen_by_the_first_row(core: CoreInstallation, row: str, key: str | None) -> None:
    file = core.upload(row)
    config = {name: value for name, value in CONFIG.items() if name != "dataset_key"}
    checked = core.jobs.validate(OWNER, JobSubmission(config=config, training_file=file.id))
    if key is None:
        assert [problem.param for problem in checked.problems] == ["training_file"]
    else:
        assert (checked.problems, checked.config["dataset_key"]) == ((), key)


def test_given_data_set_is_not_overruled(core: CoreInstallation) -> None:
    file = core.upload('{"messages": []}')
    assert core.submit(training_file=file.id).config["dataset_key"] == "soda"


def test_local_model_is_a_folder_below_the_model_root(tmp_path: Path) -> None:
    (tmp_path / "models" / "llama").mkdir(parents=True)
    (tmp_path / "models" / "llama" / "config.json").touch()
    (tmp_path / "models" / "empty").mkdir()
    (tmp_path / "models" / "file").touch()
    with open_installation(tmp_path, model_root=tmp_path / "models") as core:
        from app.db.migrate import upgrade

        upgrade(core.settings.database_url)
        for name, expected in (("llama", 0), ("nope", 1), ("file", 1), ("empty", 1)):
            assert len(find_problems(core, {"model_name_or_path": f"local:{name}"})) == expected


def test_local_deepspeed_configuration_is_a_file_below_the_config_root(tmp_path: Path) -> None:
    (tmp_path / "configs" / "folder").mkdir(parents=True)
    (tmp_path / "configs" / "zero2.json").write_text("{}")
    with open_installation(tmp_path, config_root=tmp_path / "configs") as core:
        from app.db.migrate import upgrade

        upgrade(core.settings.database_url)
        for name, expected in (("zero2.json", 0), ("nope", 1), ("folder", 1)):
            assert len(find_problems(core, {"deepspeed_config_path": f"local:{name}"})) == expected
        job = core.submit(config={"deepspeed_config_path": "local:zero2.json"})
        assert job.config["deepspeed_config_path"] == "local:zero2.json"
        assert core.submit(config=dict(job.config)).config == job.config


def test_a_data_set_of_the_hub_calibrates(core: CoreInstallation) -> None:
    for name in ("owner/rows", "owner/rows:subset"):
        config = {"quantization_dataset_id": name, "quantizer_key": "awq"}
        assert find_problems(core, config, steps=["quantize"]) == []


NEW_KEYS: dict[str, Any] = {
    "push_to_hub": True,
    "hub_model_id": "me/adapter",
    "fused_hub_model_id": "me/fused",
    "quantized_hub_model_id": "me/quantized",
    "hub_private_repo": False,
    "report_to": ["wandb", "mlflow"],
    "wandb_api_key": "w" * 40,
    "wandb_project": "p",
    "huggingface_hub_token": "hf_" + "t" * 34,
    "chat_template": "{% for message in messages %}{{ message['content'] }}{% endfor %}",
    "raw_lora_target_modules": "re:.*proj",
    "modules_to_save": ["lm_head"],
    "init_lora_weights": "olora",
    "optim": "sgd",
    "optim_args": "momentum=0.9,nesterov=True",
    "lr_scheduler_type": "cosine_with_min_lr",
    "lr_scheduler_kwargs": {"min_lr_rate": 0.1},
    "deepspeed_stage": "2",
    "quantizer_key": "awq",
    "gptq_bits": 8,
}


def test_a_jobs_own_answered_config_can_be_submitted_unchanged(core: CoreInstallation) -> None:
    job = core.submit(config=NEW_KEYS)
    assert (job.config["deepspeed_stage"], job.config["modules_to_save"]) == (2, ["lm_head"])
    assert (job.config["wandb_api_key"], job.config["huggingface_hub_token"]) == (None, None)
    assert core.submit(config=dict(job.config)).config == job.config


def test_secrets_reach_the_worker_and_nothing_else(core: CoreInstallation) -> None:
    core.add_worker()
    claim = core.claim_new(config=NEW_KEYS)
    secrets = {name: NEW_KEYS[name] for name in ("huggingface_hub_token", "wandb_api_key")}
    assert claim.secrets == secrets
    assert not any(secret in repr(claim) + str(claim.config) for secret in secrets.values())


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"hub_model_id": "me/adapter"}, "push_to_hub"),
        ({"report_to_wandb": True, "project_name": "a", "wandb_project": "b"}, "wins over wandb_project"),
        ({"wandb_project": "b"}, "nothing is reported"),
        ({"deepspeed_offload": "all"}, "deepspeed_offload"),
        ({"optim": "sgd", "adam_beta1": 0.8}, "adam_beta1 has no effect"),
    ],
)
def test_a_key_without_effect_is_a_warning_before_the_job(
    core: CoreInstallation, config: dict[str, Any], words: str
) -> None:
    checked = core.jobs.validate(OWNER, JobSubmission(config={**CONFIG, **config}))
    assert checked.problems == ()
    assert any(words in warning for warning in checked.warnings), checked.warnings
    fuse_only = core.jobs.validate(
        OWNER,
        JobSubmission(config={**CONFIG, "lora_hub_model_id": "o/a", **config}, steps=["fuse"]),
    )
    assert not any(words in warning for warning in fuse_only.warnings)


def test_a_key_of_a_plugin_that_failed_is_refused_with_the_reason(core: CoreInstallation) -> None:
    info = WorkerInfo(
        id="wrk-1",
        host="gpu-1",
        gpus=(),
        slots=1,
        version="1",
        catalogue=built_in_catalogue(),
        plugin_errors=[PluginError("mine:register", "ImportError: no module named 'nowhere'")],
    )
    core.workers.register(info)
    [worker] = core.workers.list()
    assert worker.plugin_errors == tuple(info.plugin_errors)
    [problem] = find_problems(core, {"dataset_key": "mine"})
    assert problem.param == "config.dataset_key"
    assert "the plugin 'mine:register' failed: ImportError: no module named 'nowhere'" in problem.message
    assert find_problems(core) == []
    core.workers.retire("wrk-1")
    core.jobs._workers._cached = None
    [problem] = find_problems(core, {"dataset_key": "mine"})
    assert "nowhere" not in problem.message


def test_trusted_code_needs_the_listed_commit(tmp_path: Path) -> None:
    with open_installation(tmp_path, trusted_model_code="owner/model@abc, a/b@c") as core:
        from app.db.migrate import upgrade

        upgrade(core.settings.database_url)
        assert len(find_problems(core, {"trust_remote_code": True})) == 1
        trusted = {"trust_remote_code": True, "model_revision": "abc"}
        assert find_problems(core, trusted) == []
        # A tokenizer of another repository would bring code that nobody has listed.
        assert find_problems(core, {**trusted, "tokenizer_name_or_path": "owner/model"}) == []
        [problem] = find_problems(core, {**trusted, "tokenizer_name_or_path": "evil/tokenizer"})
        assert (problem.param, problem.code) == ("config.tokenizer_name_or_path", "forbidden")


def test_code_in_a_local_folder_is_never_trusted(tmp_path: Path) -> None:
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    (tmp_path / "models" / "tiny" / "config.json").write_text("{}")
    listed = "local:tiny@None, local:tiny@abc"
    with open_installation(tmp_path, trusted_model_code=listed, model_root=tmp_path / "models") as core:
        from app.db.migrate import upgrade

        upgrade(core.settings.database_url)
        for revision in ({}, {"model_revision": "abc"}):
            problems = find_problems(core, {"model_name_or_path": "local:tiny", "trust_remote_code": True, **revision})
            assert "config.trust_remote_code" in [problem.param for problem in problems]


def test_gpus_beyond_every_host_are_refused(core: CoreInstallation) -> None:
    # Nobody knows yet what hosts there will be.
    assert find_problems(core, resources=Resources(gpus=16)) == []
    core.add_worker(num_gpus=2)
    assert find_problems(core, resources=Resources(gpus=2)) == []
    [problem] = find_problems(core, resources=Resources(gpus=3))
    assert (problem.param, "2" in problem.message) == ("resources.gpus", True)


def test_input_job_must_have_ended_and_published_something(core: CoreInstallation) -> None:
    job = core.submit()
    assert [p.code for p in find_problems(core, input_job=job.id)] == ["job_not_finished"]
    # Not also that fuse has no adapter, which would lead and is not what is wrong.
    assert [p.code for p in find_problems(core, input_job=job.id, steps=["fuse"])] == ["job_not_finished"]
    core.jobs.cancel(OWNER, job.id)
    assert [p.code for p in find_problems(core, input_job=job.id)] == ["missing_input"]


def test_plugin_keys_and_configs_are_checked_against_what_was_announced(core: CoreInstallation) -> None:
    schema = {
        "properties": {
            "lora_rank": {"default": 64, "type": "integer"},
            "beta": {"type": "number", "minimum": 0, "default": 0.1},
        }
    }
    catalogue = Catalogue(
        registries={**BUILT_IN_REGISTRIES, "configs": ("base", "dpo")},
        configs={**built_in_catalogue().configs, "dpo": schema},
    )
    core.add_worker(catalogue=catalogue)
    assert find_problems(core, {"config_key": "dpo", "beta": 0.5}) == []
    job = core.submit(config={"config_key": "dpo", "beta": 0.5})
    assert (job.config["beta"], job.config["lora_rank"]) == (0.5, 64)
    [wrong] = find_problems(core, {"config_key": "dpo", "beta": -1})
    assert wrong.param == "config.beta"
    [unknown] = find_problems(core, {"config_key": "dpo", "betta": 1})
    assert "'beta'" in unknown.message
    assert [p.param for p in find_problems(core, {"beta": 1})] == ["config.beta"]


def test_warnings_say_what_will_not_be_used(core: CoreInstallation) -> None:
    file = core.upload()
    checked = core.jobs.validate(OWNER, JobSubmission(config={**CONFIG, "quantization_dataset_id": file.id}))
    assert checked.problems == ()
    assert any("quantize is not among the steps" in warning for warning in checked.warnings)
    assert any("no worker" in warning for warning in checked.warnings)


@pytest.mark.parametrize(
    ("key", "value", "step"),
    [
        ("fuse_after_training", True, "fuse"),
        ("lora_hub_model_id", "me/adapter", "fuse"),
        ("fused_hub_model_id", "me/fused", "fuse"),
        ("quantization_dataset_id", "me/rows", "quantize"),
        ("quantized_hub_model_id", "me/quantized", "quantize"),
    ],
)
def test_a_key_of_a_step_that_the_job_lacks_is_a_warning(
    core: CoreInstallation, key: str, value: object, step: str
) -> None:
    config = {**CONFIG, "apply_lora": True, key: value}
    checked = core.jobs.validate(OWNER, JobSubmission(config=config, steps=["prepare", "train"]))
    assert checked.problems == ()
    assert f"{key} is not used: {step} is not among the steps" in checked.warnings
