"""The step fuse: from a base and a LoRA adapter to one whole model."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from huggingface_hub import snapshot_download
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from trainer_core.checkpoints import ADAPTER_CONFIG, newest_complete_adapter
from trainer_core.config import Config
from trainer_core.context import StepContext, StepResult
from trainer_core.enums import Step
from trainer_core.errors import ConfigError, Problem, StepInputError, TrainerError
from trainer_core.hub.script import connect_script
from trainer_core.models.adapter_files import PARAM as ADAPTER_PARAM
from trainer_core.models.adapter_files import AdapterFacts, read_adapter
from trainer_core.models.dtype import get_dtype_name
from trainer_core.models.failures import load_errors, resource_errors
from trainer_core.models.fusing import choose_fused_dtype, merge_adapter, publish_fused_model, save_fused_model
from trainer_core.models.loading import LoadingChoices, load_model
from trainer_core.models.shard_fusing import (
    ShardPlan,
    WholeModelNeeded,
    choose_merge_device,
    plan_shards,
    save_fused_shards,
)
from trainer_core.tokenizers import build_tokenizer
from trainer_core.types import JsonValue

_ADAPTER_PATTERNS = ["adapter_config.json", "*.safetensors", "tokenizer*", "*.jinja", "special_tokens_map.json"]


def fuse(config: Config, *, context: StepContext | None = None) -> StepResult:
    """Merges the adapter into its base and saves model and tokenizer to `config.resolved_fused_path`.

    It goes tensor by tensor, on the GPU if there is one and `device_map` does not say `cpu`; a base or an adapter that
    this does not fit is merged as a whole model, on the CPU unless `device_map` says otherwise. Raises StepInputError
    without an adapter, FuseError for one that cannot be merged rightly. A script pushes the model where the Config
    says; a job's pipeline does.
    """
    in_job = context is not None
    context = context or StepContext.for_script(Step.FUSE)
    adapter = find_adapter(config, context=context, in_job=in_job)
    pusher = None if in_job else connect_script(config, (Step.FUSE,))
    result = _fuse(config, adapter=adapter, context=context, in_job=in_job)
    return result if pusher is None else pusher.push_result(result, events=context.events)


def _fuse(config: Config, *, adapter: Path, context: StepContext, in_job: bool) -> StepResult:
    with resource_errors("fusing"), _adapter_errors(config, context=context, in_job=in_job):
        facts = read_adapter(adapter)
        if facts.changes_nothing:
            message = "the adapter's weights are as before the first step: the fused model equals its base"
            context.events.emit("warning", level="warning", message=message, data={"adapter": str(adapter)})
        _warn_of_another_base(facts.base_name, config=config, context=context)
        try:
            plan = plan_shards(config, adapter=adapter, facts=facts, dtype=choose_fused_dtype(config))
        except WholeModelNeeded as reason:
            return _fuse_whole_model(config, adapter=adapter, facts=facts, context=context, why=str(reason))
        return _fuse_shards(config, plan=plan, adapter=adapter, context=context)


def _fuse_shards(config: Config, *, plan: ShardPlan, adapter: Path, context: StepContext) -> StepResult:
    """Tensor by tensor from the base's files to new ones."""
    device = choose_merge_device(plan, wanted=config.device_map)
    facts: dict[str, JsonValue] = {"dtype": get_dtype_name(plan.dtype), "device": str(device), "way": "shards"}
    message = f"fuses {adapter.name} in {facts['dtype']} on {device}, tensor by tensor"
    context.events.emit("decision", message=message, data={"adapter": str(adapter), **facts})
    write = partial(save_fused_shards, plan=plan, max_shard_size=config.max_shard_size, device=device)
    tokenizer = _load_tokenizer(config, adapter=adapter)
    artifact = publish_fused_model(Path(config.resolved_fused_path), write=write, tokenizer=tokenizer)
    counts = {"num_parameters": plan.num_parameters, "num_adapter_tensors": len(plan.adapter)}
    return StepResult(artifacts=(artifact,), facts={**facts, **counts})


def _fuse_whole_model(
    config: Config, *, adapter: Path, facts: AdapterFacts, context: StepContext, why: str
) -> StepResult:
    """In memory, by the libraries alone."""
    choices = LoadingChoices(dtype=choose_fused_dtype(config), device_map=config.device_map, packed="dequantize")
    base = load_model(config, choices=choices)
    told: dict[str, JsonValue] = {
        "dtype": get_dtype_name(base.dtype),
        "device": str(base.device),
        "way": "whole model",
    }
    message = f"fuses {adapter.name} in {told['dtype']} on {base.device} as a whole model: {why}"
    context.events.emit("decision", message=message, data={"adapter": str(adapter), **told, "why": why})
    model = merge_adapter(base, adapter=adapter, facts=facts)
    tokenizer = _load_tokenizer(config, adapter=adapter)
    folder = Path(config.resolved_fused_path)
    artifact = save_fused_model(model, tokenizer=tokenizer, folder=folder, max_shard_size=config.max_shard_size)
    counts = {"num_parameters": model.num_parameters(), "num_adapter_tensors": len(facts.shapes)}
    return StepResult(artifacts=(artifact,), facts={**told, **counts})


@contextmanager
def _adapter_errors(config: Config, *, context: StepContext, in_job: bool) -> Iterator[None]:
    """What is wrong with an adapter from a hub is told of the option that named it: in a job it was fetched before,
    to the folder that `lora_model_local_path` names."""
    is_from_hub = context.inputs.adapter is None and (in_job or config.lora_model_local_path is None)
    try:
        yield
    except TrainerError as error:
        if is_from_hub and error.param == ADAPTER_PARAM and config.lora_hub_model_id is not None:
            error.param = "lora_hub_model_id"
        raise


def _warn_of_another_base(trained_on: str | None, *, config: Config, context: StepContext) -> None:
    """Bases of one shape cannot be told apart by the adapter's weights, only by the name it carries."""
    names = {config.model_name_or_path, context.model_id}
    is_known = trained_on is None or trained_on in names or Path(trained_on).is_absolute()
    if is_known or Path(config.model_name_or_path).name == Path(str(trained_on)).name:
        return
    message = (
        f"the adapter says that it was trained on {trained_on!r}, and is fused into "
        f"{context.model_id or config.model_name_or_path!r}; give the base it was trained on as model_name_or_path"
    )
    data = {"param": "model_name_or_path", "trained_on": trained_on}
    context.events.emit("warning", level="warning", message=message, data=data)


def find_adapter(config: Config, *, context: StepContext, in_job: bool) -> Path:
    """The folder of the adapter to fuse: the one given to the job, the Config's, else the newest whole one below
    `output_dir`. Raises StepInputError when there is none, ConfigError when the base is asked for in 4 or 8 bits.

    In a job the step train has ended when fuse begins, so that the adapter in `output_dir` itself is its whole result,
    also where it was brought from storage without its marker.
    """
    given = context.inputs.adapter or config.lora_model_local_path
    if given is not None or config.lora_hub_model_id is not None:
        _refuse_quantized_base(config)
    if given is not None:
        return Path(given)
    if config.lora_hub_model_id is not None:
        return _download_adapter(config.lora_hub_model_id, token=config.huggingface_hub_token)
    # The adapter was trained by this very Config: load_in_4bit is about its training, and the base is fused in 16 bits.
    is_in_root = in_job and (Path(config.output_dir) / ADAPTER_CONFIG).is_file()
    trained = Path(config.output_dir) if is_in_root else newest_complete_adapter(config.output_dir)
    if trained is None:
        message = (
            f"there is no adapter to fuse: {config.output_dir} holds none that is whole; train one, or give "
            "lora_model_local_path or lora_hub_model_id"
        )
        raise StepInputError(message, param="lora_model_local_path")
    return trained


def _refuse_quantized_base(config: Config) -> None:
    if config.load_in_4bit or config.load_in_8bit:
        param = "load_in_4bit" if config.load_in_4bit else "load_in_8bit"
        message = (
            f"{param}: an adapter is merged into 16-bit weights, since merging into quantized ones rounds it away; "
            f"leave {param} out, and quantize the fused model afterwards"
        )
        raise ConfigError([Problem(message, param, "conflict")])


def _download_adapter(name: str, *, token: str | None) -> Path:
    if Path(name).is_dir():
        return Path(name)
    with load_errors(f"the adapter {name!r}", param="lora_hub_model_id"):
        return Path(snapshot_download(name, allow_patterns=_ADAPTER_PATTERNS, token=token))


def _load_tokenizer(config: Config, *, adapter: Path) -> PreTrainedTokenizerBase:
    """The tokenizer that the adapter was trained with lies beside it, with the chat template that was used."""
    if config.tokenizer_name_or_path is None and (adapter / "tokenizer_config.json").is_file():
        with load_errors(f"the tokenizer in {adapter}", param="lora_model_local_path"):
            tokenizer = AutoTokenizer.from_pretrained(adapter, trust_remote_code=config.trust_remote_code)
    else:
        tokenizer = build_tokenizer(config)
    return tokenizer
