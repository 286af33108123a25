"""What makes a training fast without changing what it learns: chosen, proven on the model, and told as events."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import Trainer
from transformers.training_args import OptimizerNames

from trainer_core.config import Config
from trainer_core.config.optimizers import is_fused_into_backward
from trainer_core.errors import ConfigError, Problem
from trainer_core.experiments.token_data import TokenData, choose_num_loaders
from trainer_core.kernels.activation_budget import CheckpointedLayers, count_checkpointed
from trainer_core.kernels.choosing import (
    choose_compilation,
    compare_losses,
    find_autocast_obstacle,
    find_lean_obstacle,
    find_liger_obstacle,
    prefers_tiles,
)
from trainer_core.kernels.compiled_layers import compile_layers, find_layers
from trainer_core.kernels.fp8_linear import convert_base_to_fp8, find_fp8_obstacle
from trainer_core.kernels.fused_loss import FusedLoss, find_obstacle
from trainer_core.kernels.liger import apply_liger, remove_liger
from trainer_core.kernels.lora_linear import make_lean
from trainer_core.kernels.offloaded_checkpoint import OffloadedCheckpoint
from trainer_core.kernels.replay import Surroundings
from trainer_core.kernels.tiled_mlp import (
    find_length_obstacle,
    find_tiling_obstacle,
    needs_outputs,
    remove_tiles,
    tile_mlps,
)
from trainer_core.models.dtype import choose_dtype, get_dtype_name
from trainer_core.models.kbit import CHECKPOINTING_OPTIONS
from trainer_core.padding_free.attention import RowAttention
from trainer_core.padding_free.collator import RowCollator
from trainer_core.padding_free.model_check import (
    adds_loss_of_passes,
    build_probe_row,
    build_probe_samples,
    find_unexactness,
    get_base,
    has_experts,
    has_unused_weights,
)
from trainer_core.padding_free.rows import build_row
from trainer_core.padding_free.sampler import TokenBudgetSampler
from trainer_core.padding_free.twin import build_twin
from trainer_core.tokenized import SamplerEpochCallback
from trainer_core.trainers.building import get_trainer_class
from trainer_core.trainers.parallel import fit_buckets, gather_by_layers, is_sharding_asked_for, keeps_weights_in_shards
from trainer_core.trainers.row_choice import choose_row_shape, find_row_obstacle, merge_accumulation
from trainer_core.trainers.row_trainer import RowTrainer
from trainer_core.trainers.speed_meter import count_flops_per_token, find_peak_flops

_IN_SHARDS = "DeepSpeed or FSDP takes the layers over"


class SpeedUps(TokenData):
    """Chooses before the trainer is built, and hands the trainer what it needs afterwards.

    Each choice has a key of the Config: `off` leaves the plain way, `on` makes an obstacle an error, `auto` tells it.
    """

    _fused_loss: FusedLoss | None = None
    _row_attention: RowAttention | None = None
    _num_checkpointed: int | None = None
    _store: OffloadedCheckpoint | None = None
    """Keeps what layers begin with in host memory."""
    _is_sharded = False
    _tiling_obstacle: str | None = "samples are padded"
    """Why MLPs cannot go tile by tile, but for the layers' being compiled."""
    _probe: Any = None
    """What is tried in the model's place where the model itself cannot be run before the trainer has it."""

    def speed_up(self) -> None:
        """Does nothing for a trainer that was passed: it trains its own model."""
        if self.trainer is not None or self.training_arguments is None:
            return
        remove_tiles(self._get_model())
        self._is_sharded = is_sharding_asked_for(self.config)
        if not self._is_sharded:
            self._place_model()
        elif self.config.deepspeed_config_path is None:
            fit_buckets(self.training_arguments, self._get_model())
        if keeps_weights_in_shards(self.training_arguments):
            gather_by_layers(self._get_model(), find_layers(self._get_base()))
        self.choose_tokens()
        self._choose_rows()
        self.pad_tokens()
        self._choose_loaders()
        self._choose_loss()
        self._choose_adapter()
        self._choose_base()
        if not self._is_sharded:
            self._choose_precision()
            self._choose_ddp()
        self._choose_layers()
        self._store = OffloadedCheckpoint() if self.config.offload_activations else None
        self._choose_tiles()
        self._choose_checkpoints()
        self._probe = None

    def hand_over(self, trainer: Trainer) -> None:
        """Gives the trainer what was chosen for it."""
        if not isinstance(trainer, RowTrainer):
            return
        trainer.speed.flops_per_token = count_flops_per_token(self._get_base())
        trainer.speed.peak_flops = find_peak_flops()
        trainer.on_halved = self._tell_halved
        optimizer = str(OptimizerNames(trainer.args.optim).value)
        trainer.can_halve = not (is_fused_into_backward(optimizer) or adds_loss_of_passes(self._get_base().config))
        sampler = self.build_length_sampler()
        if sampler is not None:
            trainer.length_sampler = sampler
            trainer.add_callback(SamplerEpochCallback(sampler))
        if self._num_checkpointed is not None:
            checkpoints = CheckpointedLayers(self._get_base(), num_layers=self._num_checkpointed, store=self._store)
            trainer.add_callback(checkpoints)
        if self._row_attention is not None:
            assert isinstance(self.collator, RowCollator)
            trainer.padding_collator = self.collator.collator.pad
            trainer.row_attention = self._row_attention
            if self._fused_loss is not None and trainer.compute_loss_func is not None:
                self._fused_loss.detach()
                self._fused_loss = None
                deed = "computes the loss without holding all logits"
                self._tell_choice("fused_loss", deed, "the trainer has a compute_loss_func of its own")
            trainer.fused_loss = self._fused_loss
            trainer.token_budget = self._build_token_budget()

    def _place_model(self) -> None:
        """The model is run before the trainer takes it to its device."""
        model, arguments = self._get_model(), self.training_arguments
        assert arguments is not None
        if getattr(model, "hf_device_map", None) is None and not getattr(self._get_base(), "is_quantized", False):
            model.to(arguments.device)

    def _choose_rows(self) -> None:
        config, arguments = self.config, self.training_arguments
        assert arguments is not None
        obstacle = (
            find_row_obstacle(
                config,
                trainer_cls=get_trainer_class(config),
                collator=self.collator,
                model=self._get_model(),
            )
            or self._find_unexactness()
        )
        if obstacle is not None:
            if config.packing == "on" or config.tokens_per_batch is not None:
                param = "packing" if config.packing == "on" else "tokens_per_batch"
                message = f"{param}={getattr(config, param)!r}: samples cannot share rows here: {obstacle}"
                raise ConfigError([Problem(message, param, "conflict")])
            self._tell("decision", f"pads short samples: {obstacle}", packing="off", reason=obstacle)
            return
        self._row_attention = RowAttention(self._get_base())
        self._tiling_obstacle = self._find_tiling_obstacle()
        is_compiled = self._find_compile_obstacle() is None
        shape = choose_row_shape(
            config,
            arguments=arguments,
            multiple=64 if arguments.device.type == "cuda" else 1,
            is_static=is_compiled,
            is_single=self._is_sharded,
        )
        # DeepSpeed has been told of the passes already.
        if config.tokens_per_batch is None and not self._is_sharded:
            merge_accumulation(arguments)
        self.collator = RowCollator(self.collator, shape=shape)  # type: ignore[arg-type]
        self._tell(
            "decision",
            f"lays samples end to end in rows of up to {shape.capacity} tokens, without padding",
            packing="on",
            tokens_per_row=shape.capacity,
            tokens_per_batch=config.tokens_per_batch,
        )

    def _find_unexactness(self) -> str | None:
        device = self._find_device()
        if not self._is_sharded:
            self._probe = self._get_model()
        else:
            try:
                self._probe = build_twin(self._get_base(), device=device)
            # Whatever stands in the way of a small model, the large one is trained on padded samples.
            except Exception as error:  # noqa: BLE001
                return f"no small model of its class could be made to try it on: {error}"
        return find_unexactness(self._probe, device=device)

    def _choose_loaders(self) -> None:
        arguments = self.training_arguments
        assert arguments is not None
        arguments.dataloader_num_workers = choose_num_loaders(
            self.config,
            is_on_gpu=self._find_device().type == "cuda",
            num_cores=len(os.sched_getaffinity(0)),
            has_tokens=self._has_tokens,
        )
        if arguments.dataloader_num_workers:
            arguments.dataloader_persistent_workers = True

    def _choose_loss(self) -> None:
        config = self.config
        assert self.training_arguments is not None
        is_in_head = keeps_weights_in_shards(self.training_arguments)
        obstacle = (
            _say_off(config, "fused_loss")
            or ("it is for samples in rows" if self._row_attention is None else None)
            or ("label smoothing looks at all logits" if config.label_smoothing_factor else None)
            or find_obstacle(get_base(self._probe))
            or compare_losses(self._probe, device=self._find_device(), is_in_head=is_in_head)
        )
        if obstacle is None:
            self._fused_loss = FusedLoss(self._get_base(), is_in_head=is_in_head)
        self._tell_choice("fused_loss", "computes the loss without holding all logits", obstacle)

    def _choose_adapter(self) -> None:
        if not self.config.apply_lora:
            return
        obstacle = _say_off(self.config, "lean_lora") or find_lean_obstacle(self._get_model())
        if obstacle is None:
            make_lean(self._get_model())
        self._tell_choice("lean_lora", "casts the adapter's matrices, not the activations", obstacle)

    def _choose_base(self) -> None:
        if not self.config.fp8_base:
            return
        model = self._get_model()
        obstacle = _IN_SHARDS if self._is_sharded else find_fp8_obstacle(model)
        if obstacle is not None:
            raise ConfigError([Problem(f"fp8_base: {obstacle}", "fp8_base", "conflict")])
        num_layers = convert_base_to_fp8(model)
        # What is fused in the end is the adapter over the base as it was given.
        model.has_rounded_base = True
        message = f"multiplies by {num_layers} frozen weights in 8-bit floating point"
        self._tell("decision", message, fp8_base="on", num_layers=num_layers)

    def _choose_checkpoints(self) -> None:
        """As many layers as a budget asks for compute their activations anew; without one, all but the last.

        What the last layer keeps is used before anything else is done: to compute it anew would spare nothing.
        """
        config, arguments = self.config, self.training_arguments
        budget_gib = config.activation_memory_budget_gib
        assert arguments is not None
        if self._is_sharded:
            # The layers that DeepSpeed or FSDP has taken over are Trainer's to checkpoint.
            self._refuse_budget(_IN_SHARDS)
            return
        if budget_gib is None and not arguments.gradient_checkpointing:
            return
        if self._row_attention is None or not isinstance(self.collator, RowCollator):
            self._refuse_budget("it needs samples in rows")
            return
        base, model = self._get_base(), self._get_model()
        self._num_checkpointed = len(find_layers(base)) - 1
        if budget_gib is not None:
            arguments.gradient_checkpointing = True
            arguments.gradient_checkpointing_kwargs = dict(CHECKPOINTING_OPTIONS)
            model.enable_input_require_grads()
            shape = self.collator.shape
            self._num_checkpointed = count_checkpointed(
                base,
                row=build_row(build_probe_samples(base.config), shape=shape, fill_token_id=0).to(self._find_device()),
                row_attention=self._row_attention,
                capacity=shape.capacity,
                budget_gib=budget_gib,
                is_offloading=config.offload_activations,
            )
        self._tell(
            "decision",
            f"{self._num_checkpointed} of {len(find_layers(base))} layers compute their activations anew",
            num_checkpointed_layers=self._num_checkpointed,
            num_layers=len(find_layers(base)),
            offload_activations=config.offload_activations,
        )

    def _refuse_budget(self, obstacle: str) -> None:
        config = self.config
        if config.activation_memory_budget_gib is None and not config.offload_activations:
            return
        param = "offload_activations" if config.activation_memory_budget_gib is None else "activation_memory_budget_gib"
        message = f"{param}: {obstacle}; use_gradient_checkpointing=True alone works without"
        raise ConfigError([Problem(message, param, "conflict")])

    def _choose_precision(self) -> None:
        """16-bit weights need no autocast, which looks at every operation."""
        arguments = self.training_arguments
        assert arguments is not None
        if not arguments.bf16:
            return
        obstacle = "autocast is 'on'" if self.config.autocast == "on" else find_autocast_obstacle(self._get_model())
        if obstacle is None:
            arguments.bf16, arguments.mixed_precision = False, "no"
        dtype = get_dtype_name(choose_dtype(self.config))
        reason = "" if obstacle is None else f": {obstacle}"
        self._tell(
            "decision",
            f"computes in {dtype} {'by autocast' if obstacle else 'without autocast'}{reason}",
            autocast="on" if obstacle else "off",
        )

    def _choose_ddp(self) -> None:
        """DDP need not look for weights without gradients where there are none, nor send buffers that are constants."""
        arguments, model = self.training_arguments, self._get_model()
        assert arguments is not None
        if arguments.world_size == 1 or self._row_attention is None:
            return
        if arguments.ddp_find_unused_parameters is None and not has_unused_weights(model, device=self._find_device()):
            arguments.ddp_find_unused_parameters = False
        has_statistics = any(isinstance(module, nn.modules.batchnorm._NormBase) for module in model.modules())
        if arguments.ddp_broadcast_buffers is None and not has_statistics:
            arguments.ddp_broadcast_buffers = False

    def _choose_layers(self) -> None:
        config, base = self.config, self._get_base()
        remove_liger()
        obstacle = self._find_compile_obstacle()
        if obstacle is None and self._row_attention is None:
            obstacle = "batches of padded samples have too many different shapes"
        if obstacle is None:
            compile_layers(base, is_static=config.tokens_per_batch is not None)
        self._tell_choice("torch_compile", "compiles each layer of the model", obstacle)
        if obstacle is None:
            return
        obstacle = _say_off(config, "use_liger_kernel") or find_liger_obstacle(base)
        if obstacle is None:
            apply_liger(base)
        self._tell_choice("use_liger_kernel", "uses Liger's kernels for norms, positions and MLPs", obstacle)

    def _choose_tiles(self) -> None:
        is_asked_for = self.config.tiled_mlp == "on"
        obstacle = self._tiling_obstacle
        if obstacle is None and isinstance(self.collator, RowCollator):
            obstacle = find_length_obstacle(self.collator.shape.capacity, is_asked_for=is_asked_for)
        if obstacle is None and self._find_compile_obstacle() is None:
            obstacle = "the layers are compiled"
        if obstacle is None:
            layers = find_layers(self._get_base())
            # As in training, with its dropout.
            self._get_model().train()
            with self._probing():
                is_passing_over = self._store is not None and not needs_outputs(layers, run=self._run_probe)
            tile_mlps(layers, store=self._store if is_passing_over else None)
        self._tell_choice("tiled_mlp", "computes the MLPs of long rows tile by tile", obstacle)

    def _find_tiling_obstacle(self) -> str | None:
        config, base = self.config, self._get_base()
        if config.tiled_mlp == "off":
            return "tiled_mlp is 'off'"
        if config.tiled_mlp == "auto" and not config.offload_activations:
            return "activations do not go to host memory"
        if self._is_sharded:
            return _IN_SHARDS
        if has_experts(base.config):
            return "the model chooses among experts"
        with self._probing():
            return find_tiling_obstacle(find_layers(base), run=self._run_probe)

    @contextmanager
    def _probing(self) -> Iterator[None]:
        """Layers can be run on a short row inside; random numbers go on afterwards as if they had not been."""
        assert self._row_attention is not None
        with self._row_attention.active(), Surroundings(self._find_device()).again():
            yield

    def _run_probe(self) -> None:
        base = self._get_base()
        base(**build_probe_row(build_probe_samples(base.config)).to(self._find_device()).inputs)

    def _build_token_budget(self) -> TokenBudgetSampler | None:
        config, arguments = self.config, self.training_arguments
        if config.tokens_per_batch is None or not isinstance(self.collator, RowCollator):
            return None
        assert arguments is not None
        lengths = self._find_lengths()
        num_longer = sum(length > self.collator.shape.capacity for length in lengths)
        if num_longer:
            self._tell_warning(
                f"{num_longer} samples are longer than the {self.collator.shape.capacity} tokens of a row: each has a "
                "longer row of its own; raise tokens_per_batch, or lower max_length, which cuts samples"
            )
        return TokenBudgetSampler(
            lengths,
            capacity=self.collator.shape.capacity,
            seed=config.seed,
            rank=arguments.process_index,
            num_ranks=max(1, arguments.world_size),
        )

    def _find_lengths(self) -> Sequence[int]:
        """Tokens of each sample; encodes all of them where they are not tokens already."""
        assert isinstance(self.collator, RowCollator)
        dataset: Any = self.train_dataset
        return self.collator.measure(dataset)

    def _tell_choice(self, key: str, deed: str, obstacle: str | None) -> None:
        wanted = getattr(self.config, key)
        if obstacle is not None and wanted == "on":
            raise ConfigError([Problem(f"{key}='on': {obstacle}", key, "conflict")])
        message = deed if obstacle is None else f"does not {_to_infinitive(deed)}: {obstacle}"
        data = {key: "on" if obstacle is None else "off"}
        self._tell("decision", message, **data, **({} if obstacle is None else {"reason": obstacle}))

    def _tell_halved(self, what: str) -> None:
        if self._store is not None:
            self._store.forget()
        self._tell_warning(
            f"the device's memory is too small: {what} at most from now on, and an optimizer step the same samples as "
            "before"
        )

    def _find_compile_obstacle(self) -> str | None:
        assert self.training_arguments is not None
        return choose_compilation(
            self.config,
            model=self._get_model(),
            arguments=self.training_arguments,
            is_tiled=self._tiling_obstacle is None and prefers_tiles(self.config),
        )

    def _get_base(self) -> Any:
        return get_base(self._get_model())

    def _find_device(self) -> torch.device:
        """Where the model is, or will be once it is in shards."""
        assert self.training_arguments is not None
        device: torch.device = self.training_arguments.device if self._is_sharded else self._get_model().device
        return device


def _say_off(config: Config, key: str) -> str | None:
    return f"{key} is 'off'" if getattr(config, key) == "off" else None


def _to_infinitive(deed: str) -> str:
    verb, _, rest = deed.partition(" ")
    return f"{verb.removesuffix('s')} {rest}"
