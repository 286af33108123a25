"""The experiment: one training from the Config to the saved weights."""

import json
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel, Trainer, set_seed

from trainer_core.checkpoints import remove_incomplete_checkpoints
from trainer_core.config import dump_config
from trainer_core.context import StepResult
from trainer_core.errors import ConfigError, Problem, StepInputError, StepInterrupted
from trainer_core.experiments.saving import FolderFinisher, save_final_weights
from trainer_core.experiments.speed import SpeedUps
from trainer_core.models.attention import check_flash_attention
from trainer_core.models.device_map import check_device_map
from trainer_core.models.dtype import choose_dtype, get_dtype_name
from trainer_core.models.fusing import fuse_adapter, fuse_trained_model, save_fused_model
from trainer_core.models.positions import check_max_length
from trainer_core.models.stabilize import upcast_trainable_parameters
from trainer_core.models.vocabulary import check_vocabulary
from trainer_core.trainers.building import adapt_compute_loss, get_trainer_class
from trainer_core.trainers.checkpoint_callback import CheckpointCallback
from trainer_core.trainers.data_checks import check_data
from trainer_core.trainers.event_callback import EventCallback
from trainer_core.trainers.optimizer_groups import adapt_create_optimizer
from trainer_core.trainers.parallel import (
    StrategyCallback,
    apply_fsdp_on_cpu,
    check_parallel,
    is_sharded,
    save_in_shards,
    stop_sharding_loads,
    sum_gradients_in_fp32,
)
from trainer_core.trainers.row_trainer import RowTrainer
from trainer_core.trainers.running import run_training
from trainer_core.trainers.stop_callback import StopCallback
from trainer_core.trainers.tracking.building import build_tracking_callback, check_trackers


class Experiment(SpeedUps):
    """Builds every part of a training that it was not given, trains, saves, and fuses if the Config says so.

    `build()`, then `run()`. Every `build_*` method, `checks`, `save_config`, `apply_lora`, `stabilize_training`,
    `fuse_lora` and all hooks may be overridden.
    """

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
        self.speed_up()
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
        check_device_map(config)
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

    def internal_checks_before_train(self) -> None:
        """Raises StepInputError when evaluation is asked for and there is nothing to evaluate on."""
        arguments = self.training_arguments
        if arguments is not None and arguments.do_eval and self.eval_dataset is None:
            raise StepInputError("do_eval is set, but there are no evaluation data", param="do_eval")

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
        self.hand_over(trainer)
        trainer.add_callback(build_tracking_callback(self.config, context=self.context, is_job=self.owns_output_dir))
        finisher = FolderFinisher(
            self.tokenizer,
            model_name=self.config.model_name_or_path,
            model_id=self.context.model_id,
            trainer=trainer,
        )
        apply_fsdp_on_cpu(trainer)
        sum_gradients_in_fp32(trainer)
        if isinstance(trainer, RowTrainer):
            save_in_shards(trainer)
        trainer.add_callback(StrategyCallback(trainer, config=self.config, events=self.context.events))
        self._stop_callback = StopCallback(self.context.stop)
        trainer.add_callback(EventCallback(self.context.events, speed=getattr(trainer, "speed", None)))
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
