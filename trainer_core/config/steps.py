"""Which steps a job runs, and whether each has what it needs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trainer_core.config.fields import Config
from trainer_core.enums import STEP_ORDER, Step
from trainer_core.errors import Problem

DATASETS_WITHOUT_SOURCE = ("default", "general", "chat")
"""Built-in data sets that only read rows given to them: their `get_data` brings none."""


@dataclass(frozen=True, slots=True)
class AvailableInputs:
    """What reaches the steps from outside the job."""

    training_file: bool = False
    """Rows were uploaded, or given, for training."""
    prepared_data: bool = False
    """Prepared data exist: another job's, or a script's file."""
    adapter: bool = False
    """Another job's adapter is given."""
    model: bool = False
    """Another job's fused or fully trained model is given."""
    in_script: bool = False
    """The steps run one by one from a script, where each checks its own sources."""


def default_steps(config: Config) -> tuple[Step, ...]:
    """Prepare and train, then fuse if the Config asks for it."""
    if config.apply_lora and config.fuse_after_training:
        return (Step.PREPARE, Step.TRAIN, Step.FUSE)
    return (Step.PREPARE, Step.TRAIN)


def check_steps(config: Config, steps: Sequence[Step], inputs: AvailableInputs) -> list[Problem]:
    """What is wrong with the steps: their order, a missing source, or two sources for one thing."""
    problems = list(_check_order(steps))
    if problems or inputs.in_script:
        return problems
    checks = {
        Step.PREPARE: _check_prepare,
        Step.TRAIN: _check_train,
        Step.FUSE: _check_fuse,
        Step.QUANTIZE: _check_quantize,
    }
    return [problem for step in steps for problem in checks[step](config, steps, inputs)]


def _check_order(steps: Sequence[Step]) -> Iterator[Problem]:
    if not steps:
        yield Problem("steps: give at least one step", "steps", "invalid_steps")
    elif len(set(steps)) != len(steps):
        yield Problem("steps: a step may stand there once", "steps", "invalid_steps")
    elif list(steps) != [step for step in STEP_ORDER if step in steps]:
        order = ", ".join(STEP_ORDER)
        yield Problem(f"steps: they run in the order {order}; give them in that order", "steps", "invalid_steps")


def _check_prepare(config: Config, _steps: Sequence[Step], inputs: AvailableInputs) -> Iterator[Problem]:
    if inputs.training_file or not config.prepare_dataset:
        return
    if config.dataset_key in DATASETS_WITHOUT_SOURCE:
        message = f"training_file: the data set {config.dataset_key!r} brings no data; upload a file and give its id"
        yield Problem(message, "training_file", "missing_input")


def _check_train(config: Config, steps: Sequence[Step], inputs: AvailableInputs) -> Iterator[Problem]:
    if (config.load_in_4bit or config.load_in_8bit) and not config.apply_lora:
        name = "load_in_4bit" if config.load_in_4bit else "load_in_8bit"
        yield Problem(f"{name}: quantized weights cannot be trained; set apply_lora=True", "apply_lora", "conflict")
    if Step.PREPARE in steps:
        return
    if inputs.training_file:
        yield Problem("steps: training_file is read by the step prepare; add it", "steps", "invalid_steps")
    elif not inputs.prepared_data:
        message = "steps: train needs data; add the step prepare, or give an input_job that prepared some"
        yield Problem(message, "steps", "missing_input")


def _check_fuse(config: Config, steps: Sequence[Step], inputs: AvailableInputs) -> Iterator[Problem]:
    if Step.TRAIN not in steps and (config.load_in_4bit or config.load_in_8bit):
        name = "load_in_4bit" if config.load_in_4bit else "load_in_8bit"
        message = f"{name}: fusing into quantized weights would ruin them; leave it out, the base is loaded as it is"
        yield Problem(message, name, "conflict")
    if Step.TRAIN in steps and not config.apply_lora:
        message = "apply_lora: fuse merges a LoRA adapter, but this job trains all weights; set it, or leave out fuse"
        yield Problem(message, "apply_lora", "conflict")
    elif Step.TRAIN in steps and config.lora_hub_model_id:
        message = "lora_hub_model_id: this job trains the adapter that it fuses; leave out one of the two"
        yield Problem(message, "lora_hub_model_id", "conflict")
    elif Step.TRAIN not in steps and not (inputs.adapter or config.lora_hub_model_id):
        message = (
            "steps: fuse needs a LoRA adapter; train one with apply_lora=True, give input_job or lora_hub_model_id"
        )
        yield Problem(message, "steps", "missing_input")


def _check_quantize(config: Config, steps: Sequence[Step], inputs: AvailableInputs) -> Iterator[Problem]:
    if Step.TRAIN in steps and config.apply_lora and Step.FUSE not in steps:
        message = "steps: quantize takes a whole model, but train makes an adapter; add fuse between them"
        yield Problem(message, "steps", "invalid_steps")
    has_data = Step.PREPARE in steps or inputs.prepared_data
    if not has_data and config.quantization_dataset_id is None:
        message = (
            "quantization_dataset_id: quantize needs rows to calibrate on and to check its result with; give a file's "
            "id, or add prepare"
        )
        yield Problem(message, "quantization_dataset_id", "missing_input")
