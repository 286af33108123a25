"""Where a step of the service takes its data, adapter and model from: what its first event names."""

from trainer_core.enums import Step
from trainer_core.job_spec import JobSpec


def describe_sources(spec: JobSpec, step: Step) -> dict[str, str]:
    """Returns, by kind of input, the source that the step takes: the first that applies, in the order of the rules."""
    describe = {
        Step.PREPARE: _describe_prepare,
        Step.TRAIN: _describe_train,
        Step.FUSE: _describe_fuse,
        Step.QUANTIZE: _describe_quantize,
    }
    return describe[step](spec)


def _describe_prepare(spec: JobSpec) -> dict[str, str]:
    if spec.inputs.training_file is not None:
        sources = {"data": "training_file"}
    else:
        sources = {"data": f"get_data of the data set {spec.config.get('dataset_key')!r}"}
    if spec.inputs.validation_file is not None:
        sources["eval_data"] = "validation_file"
    return sources


def _describe_train(spec: JobSpec) -> dict[str, str]:
    return {"data": _describe_prepared_data(spec), "model": _name_model(spec)}


def _describe_fuse(spec: JobSpec) -> dict[str, str]:
    if Step.TRAIN in spec.steps:
        adapter = "this job's train"
    elif spec.inputs.adapter is not None:
        adapter = "input_job"
    else:
        adapter = str(spec.config.get("lora_hub_model_id"))
    return {"adapter": adapter, "model": _name_model(spec)}


def _describe_quantize(spec: JobSpec) -> dict[str, str]:
    if Step.FUSE in spec.steps:
        model = "this job's fuse"
    elif Step.TRAIN in spec.steps:
        model = "this job's train"
    elif spec.inputs.model is not None:
        model = "input_job"
    else:
        model = _name_model(spec)
    calibration = spec.config.get("quantization_dataset_id")
    return {"model": model, "data": str(calibration) if calibration else _describe_prepared_data(spec)}


def _describe_prepared_data(spec: JobSpec) -> str:
    return "this job's prepare" if Step.PREPARE in spec.steps else "input_job"


def _name_model(spec: JobSpec) -> str:
    return str(spec.config.get("model_name_or_path"))
