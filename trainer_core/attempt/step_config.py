"""The Config that a step of the service gets: the user's, with the paths of the workspace and of what was staged."""

from collections.abc import Mapping

from trainer_core.attempt.staged_inputs import StagedRecord
from trainer_core.config import SECRET_FIELDS, Config, build_config, configs_registry
from trainer_core.job_spec import JobSpec
from trainer_core.workspace import Workspace


def build_user_config(spec: JobSpec, *, secrets: Mapping[str, str]) -> Config:
    """Returns the job's Config as its user wrote it, of the class that its `config_key` names.

    Load plugins before. Raises ConfigError, UnknownKeyError.
    """
    key = spec.config.get("config_key") or "base"
    return build_config(
        {**spec.config, **{name: value for name, value in secrets.items() if name in SECRET_FIELDS}},
        configs_registry.get(key),
    )


def build_step_config(
    spec: JobSpec, *, workspace: Workspace, staged: StagedRecord, secrets: Mapping[str, str], is_preparing: bool
) -> Config:
    """Returns the Config for one step: every path in it is local, so that user components see what a script shows them.

    Evaluation data: while preparing, where to write them; afterwards, where they are, or None when there are none.
    Raises ConfigError, UnknownKeyError.
    """
    user_config = build_user_config(spec, secrets=secrets)
    inputs = spec.inputs
    paths = {
        "output_dir": str(workspace.outputs),
        "train_local_path_to_data": inputs.prepared_train or str(workspace.train_data),
        "eval_local_path_to_data": _choose_eval_path(user_config, spec, workspace, is_preparing=is_preparing),
        "fused_model_local_path": str(workspace.fused),
        "quantized_model_path": str(workspace.quantized),
        "lora_model_local_path": inputs.adapter or staged.adapter,
        "path_to_env_file": None,
    }
    if staged.model is not None:
        paths["model_name_or_path"] = staged.model
        # Left out, the tokenizer is the model's: it may have been staged from the model's repository.
        paths["tokenizer_name_or_path"] = staged.tokenizer or user_config.tokenizer_name_or_path
    elif staged.tokenizer is not None:
        paths["tokenizer_name_or_path"] = staged.tokenizer
    if staged.calibration is not None:
        paths["quantization_dataset_id"] = staged.calibration
    values = {**spec.config, **{name: value for name, value in secrets.items() if name in SECRET_FIELDS}, **paths}
    return build_config(values, type(user_config))


def _choose_eval_path(config: Config, spec: JobSpec, workspace: Workspace, *, is_preparing: bool) -> str | None:
    if is_preparing:
        joins_training = config.add_eval_to_train_if_no_path and spec.inputs.validation_file is None
        return None if joins_training else str(workspace.eval_data)
    if spec.inputs.prepared_eval is not None:
        return spec.inputs.prepared_eval
    return str(workspace.eval_data) if workspace.eval_data.exists() else None
