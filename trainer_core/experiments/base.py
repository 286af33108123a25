"""The experiment: one training from the Config to the saved weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from torch.utils.data import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments, set_seed

from trainer_core.checkpoints import newest_complete_checkpoint, remove_incomplete_checkpoints
from trainer_core.collators import build_collator
from trainer_core.config import Config, dump_config
from trainer_core.context import StepContext, StepResult
from trainer_core.datasets import load_dataset
from trainer_core.enums import Step
from trainer_core.errors import ConfigError, Problem, StepInputError, StepInterrupted
from trainer_core.experiments.hooks import ExperimentHooks
from trainer_core.experiments.pushing import HubPushing
from trainer_core.experiments.saving import FolderFinisher, save_final_weights
from trainer_core.models.attention import check_flash_attention
from trainer_core.models.bnb_layers import quantize_linear_layers
from trainer_core.models.dtype import choose_dtype, get_dtype_name
from trainer_core.models.fusing import fuse_adapter, fuse_trained_model, save_fused_model
from trainer_core.models.kbit import prepare_for_kbit_training
from trainer_core.models.loading import LoadingChoices, load_model
from trainer_core.models.lora import attach_lora, build_lora_config
from trainer_core.models.packed.facts import describe_packed_base, find_packing_mismatches
from trainer_core.models.positions import check_max_length
from trainer_core.models.quantization import build_quantization_config
from trainer_core.models.stabilize import stabilize, upcast_trainable_parameters
from trainer_core.models.vocabulary import check_vocabulary
from trainer_core.ranks import is_first_rank
from trainer_core.tokenizers import build_tokenizer
from trainer_core.trainers.arguments import build_training_arguments
from trainer_core.trainers.building import adapt_compute_loss, construct_trainer, get_trainer_class
from trainer_core.trainers.checkpoint_callback import CheckpointCallback
from trainer_core.trainers.data_checks import check_data
from trainer_core.trainers.event_callback import EventCallback
from trainer_core.trainers.lm import IGNORED_LABEL
from trainer_core.trainers.optimizer_groups import adapt_create_optimizer
from trainer_core.trainers.parallel import (
    StrategyCallback,
    apply_fsdp_on_cpu,
    check_parallel,
    is_sharded,
    stop_sharding_loads,
)
from trainer_core.trainers.running import run_training
from trainer_core.trainers.stop_callback import StopCallback
from trainer_core.trainers.tracking.building import build_tracking_callback, check_trackers


class Experiment(HubPushing, ExperimentHooks):
    """Builds every part of a training that it was not given, trains, saves, and fuses if the Config says so.

    `build()`, then `run()`. Every `build_*` method, `checks`, `save_config`, `apply_lora`, `stabilize_training`,
    `fuse_lora` and all hooks may be overridden.
    """

    def __init__(  # noqa: PLR0913 - each part of a training can be given
        self,
        config: Config,
        training_arguments: TrainingArguments | None = None,
        train_dataset: Dataset[Any] | None = None,
        eval_dataset: Dataset[Any] | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        collator: Callable[..., Any] | None = None,
        quantization_config: Any = None,
        model: PreTrainedModel | PeftModel | None = None,
        lora_config: LoraConfig | None = None,
        trainer: Trainer | None = None,
    ) -> None:
        """A part that is given is used as it is; neither its `build_*` nor its hooks are called."""
        self.config = config
        self.training_arguments = training_arguments
        self.train_dataset = train_dataset
        self.eval_dataset = eval_dataset
        self.tokenizer = tokenizer
        self.collator = collator
        self.quantization_config = quantization_config
        self.model = model
        self.lora_config = lora_config
        self.trainer = trainer

        self.context = StepContext.for_script(Step.TRAIN)
        """Where events go and whether a stop is asked for; the step `train` sets it before `build()`."""
        self.resumes = config.resume_from_checkpoint
        """Whether `run()` goes on from the newest complete checkpoint below `output_dir`, if there is one."""
        self.owns_output_dir = False
        """Whether `output_dir` is this job's alone, so that half-written checkpoints in it may be deleted."""
        self.fuses_in_process = True
        """Whether `run()` fuses when the Config says so; a job has a step of its own for that."""
        self.result = StepResult()
        """What was made; filled by `run()`."""
        self.internal_checks()

    @property
    def output_dir(self) -> Path:
        """Where checkpoints and the trained weights go."""
        arguments = self.trainer.args if self.trainer is not None else self.training_arguments
        return Path(str(arguments.output_dir if arguments is not None else self.config.output_dir))

    @property
    def is_main_process(self) -> bool:
        """False on all ranks but the first."""
        arguments = self.trainer.args if self.trainer is not None else self.training_arguments
        return is_first_rank() if arguments is None else arguments.process_index == 0

    def build(self) -> None:
        """Builds what was not given, in an order that finds mistakes before the model is loaded."""
        self.at_beginning()
        self.save_config()
        self.before_checks()
        self.checks()
        self.after_checks()
        set_seed(self.config.seed)
        self._build_part("training_arguments")
        self._build_part("train_dataset")
        if self.train_dataset is None:
            raise StepInputError("there is no training data set; run the step prepare, or pass train_dataset")
        self._build_part("eval_dataset")
        self._check_data()
        self._build_part("tokenizer")
        self._build_part("collator")
        self._build_model()
        if self.trainer is not None:
            self._tell_warning("a trainer was passed: it trains its own model on its own data, not what was built here")
        self._build_part("trainer")
        self._attach_callbacks()
        self.internal_checks()

    def run(self) -> None:
        """Trains and saves. Raises StepInterrupted, after a checkpoint, when the context asked to stop."""
        self.before_train()
        if self.trainer is None or self.training_arguments is None:
            raise ValueError("there is no trainer; call build() before run()")
        self.internal_checks_before_train()
        self._train(self.trainer)
        self.after_train()
        if self.config.fuse_after_training and self.fuses_in_process:
            self.fuse_lora()
        self._push_results()
        self.post_training()
        self.at_end()

    def save_config(self) -> None:
        """Writes `training_config.json` without secrets into `output_dir`."""
        if not self.is_main_process:
            return
        output_dir = Path(self.config.output_dir)
        output_dir.mkdir(parents=True, exist_ok=True)
        text = self.context.redactor.redact_text(json.dumps(dump_config(self.config), indent=2, ensure_ascii=False))
        (output_dir / "training_config.json").write_text(text + "\n", encoding="utf-8")

    def checks(self) -> None:
        """Raises ConfigError for what cannot work on this machine, before anything is loaded."""
        config = self.config
        check_flash_attention(config)
        check_parallel(config)
        check_trackers(config, is_job=self.owns_output_dir)
        self._check_hub()
        if self.trainer is None:
            get_trainer_class(config)
        if (config.load_in_4bit or config.load_in_8bit) and not config.apply_lora and self.model is None:
            message = "quantized weights cannot be trained; set apply_lora=True, or leave out load_in_4bit/load_in_8bit"
            raise ConfigError([Problem(message, "apply_lora", "conflict")])
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "the CPU: there is no CUDA device"
        dtype = get_dtype_name(choose_dtype(config))
        self._tell("decision", f"trains in {dtype} on {device}", dtype=dtype, device=device)
        if config.packing == "auto":
            self._tell("decision", "pads short samples: packing them is not supported yet", packing="off")

    def internal_checks(self) -> None:
        """Warns when collator and experiment do not share a tokenizer."""
        tokenizer = getattr(self.collator, "tokenizer", None)
        if self.tokenizer is not None and tokenizer is not None and tokenizer is not self.tokenizer:
            self._tell_warning("the collator's tokenizer is not the experiment's tokenizer, which is the one saved")

    def internal_checks_before_train(self) -> None:
        """Raises StepInputError when evaluation is asked for and there is nothing to evaluate on."""
        arguments = self.training_arguments
        if arguments is not None and arguments.do_eval and self.eval_dataset is None:
            raise StepInputError("do_eval is set, but there are no evaluation data", param="do_eval")

    def build_training_arguments(self) -> TrainingArguments:
        """transformers' arguments from the Config."""
        return build_training_arguments(self.config, events=self.context.events)

    def build_train_dataset(self) -> Dataset[Any] | None:
        """The prepared training data."""
        kwargs = self.build_train_dataset_additional_kwargs()
        return load_dataset(self.config, self.config.train_local_path_to_data, **kwargs)

    def build_eval_dataset(self) -> Dataset[Any] | None:
        """The prepared evaluation data, None when prepare kept none."""
        kwargs = self.build_eval_dataset_additional_kwargs()
        path = self.config.eval_local_path_to_data
        if path is None or not Path(path).is_file():
            if self.config.do_eval:
                raise StepInputError("do_eval is set, but prepare kept no evaluation data", param="do_eval")
            return None
        return load_dataset(self.config, path, **kwargs)

    def build_tokenizer(self) -> PreTrainedTokenizerBase:
        """The Config's tokenizer, with a padding token."""
        tokenizer: PreTrainedTokenizerBase = build_tokenizer(self.config)
        return tokenizer

    def build_collator(self) -> Callable[..., Any]:
        """The Config's collator."""
        kwargs = self.build_collator_additional_kwargs()
        return build_collator(self.config, tokenizer=self.tokenizer, **kwargs)

    def build_quantization_config(self) -> Any:
        """bitsandbytes' settings, None for a base that is not quantized."""
        return build_quantization_config(self.config)

    def build_model(self) -> PreTrainedModel:
        """The base model, made ready for training if it is quantized already."""
        settings = None if self.config.bnb_quantize_after_model_init else self.quantization_config
        choices = LoadingChoices(
            dtype=choose_dtype(self.config, use_cpu=bool(self.training_arguments and self.training_arguments.use_cpu)),
            quantization_config=settings,
            device_map=self.config.device_map,
            for_training=True,
        )
        model = load_model(self.config, choices=choices)
        self._tell_packing(model)
        quantize_linear_layers(model, settings)
        return prepare_for_kbit_training(model, config=self.config)

    def bnb_quantization(self) -> None:
        """Quantizes the linear layers of the loaded model in place, and makes it ready for training."""
        model = self._get_model()
        num_layers = quantize_linear_layers(model, self.quantization_config)
        self._tell("decision", f"quantized {num_layers} layers of the loaded model", num_layers=num_layers)
        self.model = prepare_for_kbit_training(model, config=self.config)

    def apply_lora(self) -> None:
        """Attaches the adapter to `self.model`."""
        model = self._get_model()
        if isinstance(model, PeftModel):
            self._tell_warning("the model has an adapter already: it is trained, and apply_lora adds none")
            return
        if self.lora_config is None:
            self.lora_config = build_lora_config(model, config=self.config)
        self.model = attach_lora(
            model, lora_config=self.lora_config, config=self.config, resume_from=self._find_checkpoint()
        )
        num_trainable, num_all = self.model.get_nb_trainable_parameters()
        targets = self.lora_config.target_modules
        self._tell(
            "decision",
            f"trains {num_trainable:,} of {num_all:,} parameters in an adapter",
            target_modules=targets if isinstance(targets, str) else sorted(targets or ()),
            num_trainable_parameters=num_trainable,
            num_parameters=num_all,
        )

    def stabilize_training(self) -> None:
        """Casts weights to the formats in which training is stable."""
        stabilize(self._get_model(), config=self.config, has_bf16=choose_dtype(self.config) is torch.bfloat16)

    def build_trainer(self) -> Trainer:
        """The Config's trainer."""
        return construct_trainer(
            get_trainer_class(self.config),
            arguments={
                "model": self.model,
                "args": self.training_arguments,
                "data_collator": self.collator,
                "train_dataset": self.train_dataset,
                "eval_dataset": self.eval_dataset,
            },
            ours={"config": self.config, "ignore_index": IGNORED_LABEL},
            extra=self.build_trainer_additional_kwargs(),
        )

    def fuse_lora(self) -> PreTrainedModel:
        """Merges the trained adapter into its base, saves the fused model, and returns it as `self.model`.

        Raises TypeError when there is no adapter. A base that was quantized is loaded anew in 16 bits.
        """
        if not isinstance(self.model, PeftModel):
            raise TypeError("there is no adapter to fuse: self.model is not a PeftModel")
        if self.trainer is not None and is_sharded(self.trainer):
            stop_sharding_loads()
            fused_model: Any = self.model
            if self.is_main_process:
                fused_model = fuse_adapter(self.config, adapter=self.output_dir)
        else:
            fused_model = fuse_trained_model(self.model, config=self.config, adapter=self.output_dir)
        self.model = fused_model
        if self.is_main_process:
            folder = Path(self.config.resolved_fused_path)
            fused = save_fused_model(
                fused_model, tokenizer=self.tokenizer, folder=folder, max_shard_size=self.config.max_shard_size
            )
            self.result = StepResult(artifacts=(*self.result.artifacts, fused), facts=self.result.facts)
        self.after_fuse()
        return self._get_model()  # type: ignore[no-any-return]

    def post_training(self) -> None:
        """After training and fusing."""

    def _build_part(self, name: str) -> None:
        self._stop_if_asked()
        if getattr(self, name) is None:
            getattr(self, f"before_{name}_build")()
            setattr(self, name, getattr(self, f"build_{name}")())
            if name == "eval_dataset":
                self._turn_evaluation_on()
            getattr(self, f"after_{name}_build")()
        elif name == "eval_dataset":
            self._turn_evaluation_on()

    def _check_data(self) -> None:
        if self.training_arguments is not None:
            check_data(
                self.config,
                arguments=self.training_arguments,
                train_dataset=self.train_dataset,
                eval_dataset=self.eval_dataset,
                events=self.context.events,
            )

    def _turn_evaluation_on(self) -> None:
        if self.eval_dataset is not None and self.training_arguments is not None:
            self.training_arguments.do_eval = True
            if self.training_arguments.eval_strategy == "no":
                self.training_arguments.eval_strategy = type(self.training_arguments.eval_strategy)("steps")

    def _build_model(self) -> None:
        config = self.config
        if self.model is not None and self.quantization_config is not None:
            self._tell_warning("a model was passed: the quantization_config that was passed too has no effect")
        self._build_part("quantization_config")
        check_max_length(config, events=self.context.events, settings=getattr(self.model, "config", None))
        self._build_part("model")
        check_vocabulary(self._get_model(), tokenizer=self.tokenizer, events=self.context.events)
        if config.bnb_quantize_after_model_init:
            self.before_bnb_quantization()
            self.bnb_quantization()
            self.after_bnb_quantization()
        if config.apply_lora:
            self.before_lora_apply()
            self.apply_lora()
            self.after_lora_apply()
        if config.stabilize:
            self.before_stabilize_training()
            self.stabilize_training()
            self.after_stabilize_training()
        if self.training_arguments is not None and self.training_arguments.fp16:
            upcast_trainable_parameters(self._get_model())

    def _attach_callbacks(self) -> None:
        trainer = self.trainer
        if trainer is None:
            raise ValueError("build_trainer returned no trainer")
        if adapt_compute_loss(trainer):
            self._tell_warning(
                f"{type(trainer).__name__}.compute_loss takes no num_items_in_batch: the losses of accumulated batches "
                "are averaged, whatever their sizes; labels come unshifted, with -100 where nothing is learned"
            )
        adapt_create_optimizer(trainer, config=self.config)
        trainer.add_callback(build_tracking_callback(self.config, context=self.context, is_job=self.owns_output_dir))
        finisher = FolderFinisher(
            self.tokenizer,
            model_name=self.config.model_name_or_path,
            model_id=self.context.model_id,
            trainer=trainer,
        )
        apply_fsdp_on_cpu(trainer)
        trainer.add_callback(StrategyCallback(trainer, config=self.config, events=self.context.events))
        self._stop_callback = StopCallback(self.context.stop)
        trainer.add_callback(EventCallback(self.context.events))
        trainer.add_callback(self._stop_callback)
        trainer.add_callback(
            CheckpointCallback(
                events=self.context.events,
                save_total_limit=self.config.save_total_limit,
                finish_folder=finisher.finish,
            )
        )
        self._attach_pushing(trainer)
        self._finisher = finisher

    def _train(self, trainer: Trainer) -> None:
        self._stop_if_asked()
        if self.owns_output_dir and self.is_main_process:
            remove_incomplete_checkpoints(self.output_dir)
        checkpoint = self._find_checkpoint()
        if checkpoint is not None:
            self._tell("decision", f"resumes from {checkpoint.name}", path=str(checkpoint))
        run_training(trainer, resume_from=checkpoint)
        if self._stop_callback.has_stopped:
            step = trainer.state.global_step
            raise StepInterrupted(f"stopped after step {step} of {trainer.state.max_steps}, with a checkpoint")
        self.result = save_final_weights(
            trainer, finisher=self._finisher, output_dir=self.output_dir, checkpoint=checkpoint
        )

    def _find_checkpoint(self) -> Path | None:
        return newest_complete_checkpoint(self.output_dir) if self.resumes else None

    def _tell_packing(self, model: PreTrainedModel) -> None:
        facts = describe_packed_base(model)
        if facts is None:
            return
        self._tell("decision", f"trains an adapter over {facts}", packing=str(facts))
        for message in find_packing_mismatches(self.config, facts):
            self._tell_warning(message)

    def _get_model(self) -> Any:
        if self.model is None:
            raise ValueError("there is no model; build_model returned none")
        return self.model

    def _stop_if_asked(self) -> None:
        if self.context.stop.is_set:
            raise StepInterrupted("stopped before the first step")

    def _tell(self, event_type: str, message: str, **data: Any) -> None:
        if self.is_main_process:
            self.context.events.emit(event_type, message=message, data=data)

    def _tell_warning(self, message: str) -> None:
        if self.is_main_process:
            self.context.events.emit("warning", level="warning", message=message)
