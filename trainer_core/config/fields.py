"""Config: every key of all steps, with its default, its bounds and its meaning."""

from dataclasses import field
from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from trainer_core.config.checks import raise_problems
from trainer_core.config.parsing import (
    parse_deepspeed_stage,
    parse_lora_init,
    parse_lora_targets,
    parse_options,
    split_lora_targets,
    split_names,
    split_optional_names,
)
from trainer_core.types import JsonScalar

# What libraries count with: a longer number would break them in mid-training.
LARGEST_COUNT = 2**31 - 1
Count = Annotated[int, Field(ge=0, le=LARGEST_COUNT)]
Positive = Annotated[int, Field(ge=1, le=LARGEST_COUNT)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1, max_length=512)]
Text = Annotated[str, Field(max_length=4096)]
Template = Annotated[str, Field(min_length=1, max_length=65_536)]
ShardSize = Annotated[str, Field(pattern=r"^\d+(\.\d+)? ?([KMGT]i?)?B$")]
DeepSpeedStage = Annotated[int, BeforeValidator(parse_deepspeed_stage), Field(ge=0, le=3)]
LoraTargets = Annotated[str | list[str], BeforeValidator(parse_lora_targets)]
Names = Annotated[list[str], BeforeValidator(split_names)]
OptionalNames = Annotated[list[str] | None, BeforeValidator(split_optional_names)]
LoraInit = Annotated[bool | str, BeforeValidator(parse_lora_init)]
Choice = Literal["auto", "on", "off"]
Options = Annotated[dict[str, JsonScalar] | None, BeforeValidator(parse_options)]


@dataclass(config=ConfigDict(extra="forbid", use_attribute_docstrings=True))
class Config:
    """One Config for all steps.

    `Config(...)` validates and raises pydantic's ValidationError; `build_config` validates subclasses too and raises
    ConfigError with every problem. Constructing one changes nothing outside: no environment variable, no login.
    """

    # Keys of all steps
    config_key: Name = "base"
    """Which registered Config this is: a key of `configs_registry`."""
    experiment_key: Name = "base"
    """Key of the experiment in `experiments_registry`."""
    save_safetensors: bool = True
    """Save weights as safetensors; there is no other way any more, so that only True is accepted."""
    max_shard_size: ShardSize = "10GB"
    """Largest size of one file of saved weights, such as `500MB` or `10GB`."""
    local_rank: int = 0
    """Rank of this process on its host; set by launchers, and for scripts only."""
    use_gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: much less memory, about a third more time."""
    trainer_key: Name = "lm"
    """Key of the trainer in `trainers_registry`."""
    force_fp32: bool = False
    """Load and train the model in fp32, whatever the device offers."""
    force_fp16: bool = False
    """Load the model in fp16 and train with fp16 mixed precision on a GPU."""
    from_gptq: bool = False
    """Continue from a model that is quantized already."""
    huggingface_hub_token: Text | None = field(default=None, repr=False)
    """Token of the Hugging Face Hub; write-only over HTTP. None: anonymous, or the saved login in a script."""
    single_gpu: bool | None = None
    """DeepSpeed on one GPU without its launcher; for scripts only."""
    master_port: Annotated[int, Field(ge=1, le=65535)] = 9994
    """TCP port that the ranks meet at with `single_gpu`; for scripts only."""
    deepspeed_stage: DeepSpeedStage = 0
    """ZeRO stage of the built-in DeepSpeed settings: 0 (off) to 3."""
    deepspeed_config_path: Text | None = None
    """File with DeepSpeed settings; wins over `deepspeed_stage`. Over HTTP `local:<name>`."""
    deepspeed_offload: Literal["auto", "none", "optimizer", "all"] = "auto"
    """What the built-in DeepSpeed settings keep in host memory; `auto` as the stage's own settings say."""
    fsdp_strategy: Text = ""
    """FSDP options such as `full_shard auto_wrap`; empty: no FSDP."""
    fsdp_offload: bool = True
    """Keep FSDP's sharded weights in host memory."""
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 42
    """Seed of every random choice: shuffling, initial LoRA weights, dropout, sampling."""
    stabilize: bool = False
    """Keep norms in fp32 and LoRA weights, head and embeddings in bf16 where the GPU has it."""
    norm_fp32: bool | None = None
    """Cast normalisation layers to fp32 while stabilizing. None: as `stabilize`."""
    path_to_env_file: Text | None = "./.env"
    """File of environment variables read by a script's command line; for scripts only."""

    # prepare
    prepare_dataset: bool = True
    """Prepare the data. False leaves data that exist as they are."""

    # fuse
    lora_hub_model_id: Name | None = None
    """Adapter on the Hub to fuse, `owner/name`."""
    lora_model_local_path: Text | None = None
    """Folder of the adapter to fuse; for scripts only."""
    fused_model_local_path: Text | None = None
    """Folder for the fused model. None: `fused` below `output_dir`. For scripts only."""
    fuse_after_training: bool = False
    """Fuse the adapter when the training has ended, and save the fused model."""
    fused_hub_model_id: Name | None = None
    """Repository for the fused model of a job that also trains. None: not pushed."""
    fused_hub_private_repo: bool = True
    """Make the fused model's repository private."""

    # quantize
    quantizer_key: Name = "gptq"
    """Key of the quantizer in `quantizers_registry`: `gptq`, `awq` (weights in few bits), `fp8`, `w8a8` (weights and
    activations in 8 bits), `bnb` (bitsandbytes), or a plugin's."""
    quantization_format: Literal["compressed-tensors", "gptq"] = "compressed-tensors"
    """Layout of the quantized checkpoint."""
    quantization_dataset_id: Name | None = None
    """Data for calibration: a `file-…` id over HTTP, a JSONL file in a script, or a data set on the Hub, `owner/name`
    or `owner/name:subset`, of which the first rows of the training split are taken. None: the job's training data."""
    quantization_max_samples: Count = 1024
    """At most this many samples are used for calibration; 0: all."""
    quantized_model_path: Text = "./quantized_model/"
    """Folder for the quantized model; for scripts only."""
    quantized_hub_model_id: Name | None = None
    """Repository for the quantized model. None: not pushed."""
    quantized_hub_private_repo: bool = True
    """Make the quantized model's repository private."""
    gptq_bits: Literal[2, 3, 4, 8] = 4
    """Bits of a quantized weight with `gptq` and `awq`; with `bnb` 4 (NF4 or FP4) or 8. vLLM serves 4 and 8."""
    gptq_group_size: Annotated[int, Field(ge=-1, le=LARGEST_COUNT)] = 128
    """Weights that share a scale with `gptq` and `awq`; -1: one scale a row, as in layers whose width it does not
    divide."""
    dampening_frac: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Share of the mean of the Hessian's diagonal that GPTQ (`gptq`, `w8a8`) adds to it; more is safer and less
    exact."""
    actorder: Literal["static", "group"] | None = "static"
    """GPTQ's order of columns (`gptq`, `w8a8`): `static`, by activation with the groups left in place; None: as they
    stand. `group`, with the groups along the order, is refused: checkpoints hold no index of groups any more."""
    smoothing_strength: Annotated[float, Field(ge=0, le=1)] = 0.5
    """How much of the activations' outliers `w8a8` moves into the weights; 0: none."""
    gptq_disable_exllama: bool = True
    """ExLlama kernels went with auto-gptq, so that only True is accepted."""

    # Data
    dataset_key: Name = "soda"
    """Key of the data set in `datasets_registry`. With an uploaded file and no key given, the first row decides."""
    dataset_sample_field: Name = "text"
    """Field of a row that the `general` data set reads."""
    train_local_path_to_data: Text = "./train.jsonl"
    """File of the prepared training data; for scripts only."""
    eval_local_path_to_data: Text | None = None
    """File of the prepared evaluation data. None: no evaluation data are kept. For scripts only."""
    shuffle: bool = True
    """Shuffle the training data once, by `seed`, when they are prepared."""
    max_eval_samples: Annotated[int, Field(ge=-LARGEST_COUNT, le=LARGEST_COUNT)] = 1_000
    """At most this many evaluation samples; 0 or less: no bound."""
    add_eval_to_train_if_no_path: bool = False
    """Train on the data set's evaluation data when there is nowhere to keep them."""

    # Tokenizer and collator
    tokenizer_name_or_path: Name | None = None
    """Tokenizer to use. None: the model's."""
    tokenizer_use_fast: bool | None = None
    """Every tokenizer is a fast one now, so that only None is accepted."""
    tokenizer_padding_side: Literal["left", "right"] | None = None
    """Side on which short samples are padded. None: as the tokenizer says."""
    chat_template: Template | None = None
    """Chat template as Jinja text, or `chatml`, in place of the tokenizer's. None: the tokenizer's own."""
    collator_key: Name = "lm"
    """Key of the collator in `collators_registry`."""
    collator_separator: Text = "\n"
    """Text between the parts of a sample."""
    collator_prefix_end: Name | None = None
    """The completion collator learns only what follows this text within the last part. None: all of the last part."""
    max_length: Positive = 2048
    """Longest sample in tokens; longer ones are cut."""
    packing: Choice = "auto"
    """Lay several samples end to end in one row, in place of padding. `auto`: where that is exact."""
    tokens_per_batch: Positive | None = None
    """Tokens of an optimizer step, in place of a count of samples; one pass takes its share of them by
    `gradient_accumulation_steps` and processes. None: count samples."""

    # Model
    model_name_or_path: Name = "mistralai/Mistral-7B-v0.1"
    """Model: `owner/name` on the Hub; a folder in a script; `local:<name>` over HTTP."""
    model_revision: Name | None = None
    """Branch, tag or commit of the model on the Hub. None: `main` as it is when the job starts."""
    push_to_hub_bos_add_bos_token: bool = False
    """Set `add_bos_token` in the pushed tokenizer's settings."""
    use_flash_attention_2: bool = False
    """Use the flash-attn package; needs CUDA, flash-attn and a model that knows it."""
    trust_remote_code: bool = False
    """Run code that comes with a model."""
    device_map: Name | None = None
    """Where the model's layers go, such as `auto` or `cuda:0`. None: the trainer's device."""
    offload_folder: Text | None = None
    """Folder for weights that fit neither GPU nor host memory while loading; for scripts only."""
    prepare_model_for_kbit_training: bool = True
    """Upcast what stays unquantized and enable input gradients; acts on quantized models only."""

    # bitsandbytes
    load_in_8bit: bool = False
    """Load the base in 8 bits."""
    load_in_4bit: bool = False
    """Load the base in 4 bits (QLoRA with `apply_lora`)."""
    llm_int8_threshold: Amount = 6.0
    """Activations above this magnitude are multiplied in 16 bits."""
    llm_int8_has_fp16_weight: bool = False
    """Keep 16-bit weights beside the 8-bit ones: no memory is saved then."""
    bnb_4bit_use_double_quant: bool = True
    """Quantize the quantization scales too."""
    bnb_4bit_quant_type: Literal["nf4", "fp4"] = "nf4"
    """Number format of 4-bit weights."""
    bnb_quantize_after_model_init: bool = False
    """Quantize after the model was loaded in full precision."""

    # LoRA
    apply_lora: bool = False
    """Train a LoRA adapter instead of all weights."""
    lora_rank: Annotated[int, Field(ge=1, le=65_536)] = 8
    """Rank of the adapter's matrices."""
    lora_alpha: Positive = 32
    """The adapter's product is multiplied by `lora_alpha / lora_rank`."""
    lora_dropout: Fraction = 0.1
    """Dropout before the adapter."""
    raw_lora_target_modules: LoraTargets = "all"
    """Layers with an adapter: `all`, a list or comma-separated names, or `re:<pattern>` over module paths."""
    lora_target_parameters: OptionalNames = None
    """Parameters with an adapter that are no linear layer's weight, such as the experts of a mixture. None: none."""
    modules_to_save: OptionalNames = None
    """Layers that are trained whole and saved beside the adapter, such as `embed_tokens,lm_head`. None: none."""
    use_dora: bool = False
    """Train magnitude and direction of the weights apart (DoRA): nearer to full training, slower."""
    use_rslora: bool = False
    """Scale the adapter's product by `lora_alpha / sqrt(lora_rank)`: better for high ranks."""
    init_lora_weights: LoraInit = True
    """Initial weights of the adapter: True (B is zero), False (random, for tests), `gaussian`, `pissa`,
    `pissa_niter_<n>`, `olora`, `orthogonal` or `loftq`."""
    loftq_bits: Literal[2, 4, 8] = 4
    """Bits whose rounding error `init_lora_weights="loftq"` makes up for."""
    loftq_iter: Positive = 1
    """Rounds of `init_lora_weights="loftq"`."""
    loraplus_lr_ratio: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """LoRA+: the learning rate of the adapter's B matrices over that of its A matrices. None: the same for both."""
    loraplus_lr_embedding: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-6
    """LoRA+: the learning rate of adapters on embeddings."""

    # Training
    output_dir: Text = "./outputs/"
    """Folder of checkpoints and of the trained adapter or model; for scripts only."""
    per_device_train_batch_size: Positive = 2
    """Samples in one forward pass on one device."""
    do_eval: bool = False
    """Insist on evaluation: training without evaluation data is an error. With such data it is evaluated anyway."""
    per_device_eval_batch_size: Positive | None = None
    """Samples in one evaluation pass. None: as for training."""
    gradient_accumulation_steps: Positive = 1
    """Forward and backward passes in one optimizer step."""
    eval_accumulation_steps: Positive | None = None
    """Evaluation passes whose outputs stay on the device. None: as `gradient_accumulation_steps`."""
    eval_delay: Count = 0
    """Optimizer steps before the first evaluation."""
    eval_steps: Positive | None = 1_000
    """Optimizer steps between two evaluations. None: only at the end."""
    warmup_steps: Count = 1_000
    """Optimizer steps over which the learning rate rises."""
    max_steps: Positive | None = None
    """Optimizer steps of the whole training. None: as `num_train_epochs` says."""
    num_train_epochs: Positive = 1
    """Passes over the training data."""
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2e-4
    """Highest learning rate."""
    max_grad_norm: Amount = 1.0
    """Gradients are scaled down to this norm."""
    weight_decay: Amount = 0.001
    """Decay of weights in the optimizer."""
    label_smoothing_factor: Fraction = 0.0
    """Share of the target's probability that is spread over the vocabulary."""
    logging_steps: Positive = 10
    """Optimizer steps between two metrics; the first step and each that is saved have some, too."""
    save_steps: Positive = 100
    """Optimizer steps between two checkpoints."""
    save_total_limit: Count = 1
    """Checkpoints that are kept; 0: all."""
    optim: Name | None = "paged_adamw_8bit"
    """Optimizer, by transformers' name. None: transformers' default."""
    optim_args: Text | None = None
    """More options of the optimizer, as `name=value` separated by commas. None: none."""
    optim_target_modules: OptionalNames = None
    """Layers whose gradients GaLore, APOLLO and their kind project. None: every linear layer."""
    adam_beta1: Fraction = 0.9
    """Decay of Adam's mean of gradients."""
    adam_beta2: Fraction = 0.999
    """Decay of Adam's mean of squared gradients."""
    adam_epsilon: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-8
    """Added to Adam's denominator."""
    lr_scheduler_type: Name = "linear"
    """Course of the learning rate, by transformers' name, such as `cosine` or `constant_with_warmup`."""
    lr_scheduler_kwargs: Options = None
    """More options of the scheduler, such as `{"num_cycles": 2}`. None: none."""
    neftune_noise_alpha: Amount | None = None
    """Strength of NEFTune's noise on the embeddings. None: no noise."""
    resume_from_checkpoint: bool = False
    """A script goes on from the newest complete checkpoint below `output_dir`; a job always does."""
    push_to_hub: bool = False
    """Push the trained adapter or model to `hub_model_id`."""
    hub_model_id: Name | None = None
    """Repository for what training makes, `owner/name`."""
    hub_private_repo: bool = True
    """Make that repository private."""

    # Speed
    fused_loss: Choice = "auto"
    """Compute the loss from the last hidden states, without all logits. `auto`: where the model's loss stays the
    same."""
    lean_lora: Choice = "auto"
    """Cast the adapter's few numbers to the activations' format, not the activations to theirs. `auto`: on layers with
    one plain adapter."""
    autocast: Literal["auto", "on"] = "auto"
    """Mixed precision by autocast on a GPU. `auto`: only where parts of the model are in fp32."""
    torch_compile: Choice = "auto"
    """Compile each layer of the model. `auto`: on a GPU, with `tokens_per_batch`, for 100 steps or more; not for
    LoRA without dropout or checkpoints on 16-bit weights and one GPU, which is as fast with Liger's kernels, nor with
    `tiled_mlp`."""
    use_liger_kernel: Choice = "auto"
    """Use Liger's kernels for norms, rotary positions and gated MLPs. `auto`: on a GPU, where Liger knows the model
    and its layers are not compiled."""
    fp8_base: bool = False
    """Multiply by the frozen weights below an adapter in 8-bit floating point: faster on a GPU that does so, less
    exact."""
    activation_memory_budget_gib: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """GiB that the layers' activations may take; as many layers as need be compute theirs anew. None: all layers keep
    them, or none as `use_gradient_checkpointing` says."""
    offload_activations: bool = False
    """Keep the inputs of layers that compute their activations anew in host memory: less memory on the GPU, and copies
    beside the computation. Needs `use_gradient_checkpointing` or `activation_memory_budget_gib`."""
    tiled_mlp: Choice = "auto"
    """Compute the MLPs of long rows a tile of 4,096 tokens after the other: less memory on the GPU. `auto`: with
    `offload_activations`, in rows of 8,192 tokens or more where layers are not compiled, which from 32,768 tokens on
    they are not (but with `fp8_base`)."""
    tokenize_once: Literal["auto", "off"] = "auto"
    """Tokenise the data before the first step, and keep the tokens for later trainings on the same data. `auto`: where
    data set and collator give the same samples each time."""
    group_by_length: bool = False
    """Put samples of like length into one batch, which then has less padding; without effect on rows."""
    dataloader_num_workers: Annotated[int, Field(ge=0, le=256)] | None = None
    """Processes that make batches ahead. None: 2 on a GPU with 4 processor cores or more, else none."""

    # Tracking
    report_to: Names = field(default_factory=list)
    """Trackers besides the job's own metrics: `tensorboard`, `wandb`, `mlflow`."""
    run_name: Name | None = None
    """Name of the run in the tracker. None: the tracker's choice."""
    project_name: Name | None = None
    """Project in the tracker; wins over `wandb_project`."""
    report_to_wandb: bool = False
    """Report to Weights & Biases."""
    wandb_api_key: Text | None = field(default=None, repr=False)
    """Key of Weights & Biases; write-only over HTTP."""
    wandb_project: Name | None = None
    """Project in Weights & Biases."""
    wandb_entity: Name | None = None
    """User or team in Weights & Biases."""

    @model_validator(mode="after")
    def _check(self) -> "Config":
        raise_problems(self)
        return self

    @property
    def correct_tokenizer_name_or_path(self) -> str:
        """The tokenizer's name or folder: its own key, else the model's."""
        return self.tokenizer_name_or_path or self.model_name_or_path

    @property
    def lora_target_modules(self) -> list[str] | str | None:
        """None for every linear layer, a list of names, or a regular expression over module paths."""
        return split_lora_targets(self.raw_lora_target_modules)

    @property
    def resolved_project_name(self) -> str | None:
        """The tracker's project."""
        return self.project_name or self.wandb_project

    @property
    def need_to_prepare_model_for_kbit_training(self) -> bool:
        """Whether the loaded base is quantized and is to be prepared for training."""
        return self.prepare_model_for_kbit_training and (self.load_in_4bit or self.load_in_8bit or self.from_gptq)

    @property
    def resolved_fused_path(self) -> str:
        """Folder of the fused model."""
        return self.fused_model_local_path or f"{self.output_dir.rstrip('/')}/fused"
