"""The parts of a training, each built from the Config where none was given."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from torch.utils.data import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments

from trainer_core.checkpoints import newest_complete_checkpoint
from trainer_core.collators import build_collator
from trainer_core.config import Config
from trainer_core.context import StepContext, StepResult
from trainer_core.datasets import load_dataset
from trainer_core.enums import Step
from trainer_core.errors import StepInputError, StepInterrupted
from trainer_core.experiments.hooks import ExperimentHooks
from trainer_core.experiments.pushing import HubPushing
from trainer_core.models.bnb_layers import quantize_linear_layers
from trainer_core.models.dtype import choose_dtype
from trainer_core.models.kbit import prepare_for_kbit_training
from trainer_core.models.loading import LoadingChoices, load_model
from trainer_core.models.lora import attach_lora, build_lora_config
from trainer_core.models.packed.facts import describe_packed_base, find_packing_mismatches
from trainer_core.models.quantization import build_quantization_config
from trainer_core.models.stabilize import stabilize
from trainer_core.ranks import is_first_rank
from trainer_core.tokenizers import build_tokenizer
from trainer_core.trainers.arguments import build_training_arguments
from trainer_core.trainers.building import construct_trainer, get_trainer_class
from trainer_core.trainers.lm import IGNORED_LABEL


class ExperimentParts(HubPushing, ExperimentHooks):
    """Holds the parts and builds each; when and in which order is the experiment's affair."""

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

    def internal_checks(self) -> None:
        """Warns when collator and experiment do not share a tokenizer."""
        tokenizer = getattr(self.collator, "tokenizer", None)
        if self.tokenizer is not None and tokenizer is not None and tokenizer is not self.tokenizer:
            self._tell_warning("the collator's tokenizer is not the experiment's tokenizer, which is the one saved")

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
                message = (
                    "do_eval is set, but prepare kept no evaluation data; give a validation_file, in a script rows at "
                    "eval_local_path_to_data, or leave do_eval out"
                )
                raise StepInputError(message, param="do_eval")
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
