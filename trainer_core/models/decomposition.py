"""Initial adapters taken out of the base's own weights: PiSSA, OLoRA and LoftQ.

Shapes: O out_features, I in_features, R rank. With s the adapter's scaling, a layer's weight W becomes
`residual_OI + s * B_OR @ A_RI`, where the residual is W less the initial product (LoftQ: W rounded to few bits).
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from trainer_core.errors import ConfigError, Problem
from trainer_core.models.rounding import round_weight


@dataclass(frozen=True, slots=True)
class InitialPair:
    """The initial matrices of one layer's adapter."""

    a_RI: torch.Tensor
    b_OR: torch.Tensor

    def to_cpu(self) -> "InitialPair":
        """Copies that later steps do not change."""
        return InitialPair(self.a_RI.detach().cpu().clone(), self.b_OR.detach().cpu().clone())


@dataclass(frozen=True, slots=True)
class Decomposition:
    """How the initial matrices are taken out of a weight."""

    method: str
    """`pissa`, `pissa_niter_<n>`, `olora` or `loftq`."""
    rank: int
    scaling: float
    adapter_dtype: torch.dtype = torch.float32
    """The matrices are rounded to it before the residual is taken, so that their product is exactly what is missing."""
    loftq_bits: int = 4
    loftq_iter: int = 1

    def split(
        self, weight_OI: torch.Tensor, *, name: str, pair: InitialPair | None = None
    ) -> tuple[InitialPair, torch.Tensor]:
        """The initial matrices and the residual, both in fp32. A `pair` given is taken as it is.

        Raises ConfigError when the layer `name` is smaller than the rank.
        """
        weight_OI = weight_OI.detach().to(torch.float32)
        if pair is not None and pair.a_RI.shape[0] != self.rank:
            message = (
                f"the checkpoint's adapter has rank {pair.a_RI.shape[0]}; go on with it, not lora_rank={self.rank}"
            )
            raise ConfigError([Problem(message, "lora_rank", "conflict")])
        if self.rank > min(weight_OI.shape):
            message = (
                f"init_lora_weights={self.method!r} finds at most {min(weight_OI.shape)} directions in {name}; lower "
                f"lora_rank={self.rank}"
            )
            raise ConfigError([Problem(message, "lora_rank", "invalid_value")])
        if self.method == "loftq":
            return self._split_rounding_error(weight_OI, pair=pair)
        if pair is None:
            pair = self._split_qr(weight_OI) if self.method == "olora" else self._split_svd(weight_OI)
        return pair, self._subtract(pair, weight_OI)

    def _split_svd(self, weight_OI: torch.Tensor) -> InitialPair:
        """The R largest singular values and their vectors (PiSSA, arXiv:2404.02948)."""
        if "_niter_" in self.method:
            u, s, v = torch.svd_lowrank(weight_OI, self.rank, niter=int(self.method.rsplit("_", 1)[-1]))
            vh = v.T
        else:
            u, s, vh = torch.linalg.svd(weight_OI, full_matrices=False)
        root = (s[: self.rank] / self.scaling).sqrt()
        return self._round(root[:, None] * vh[: self.rank], u[:, : self.rank] * root)

    def _split_qr(self, weight_OI: torch.Tensor) -> InitialPair:
        """The first R columns of Q and rows of R (OLoRA, arXiv:2406.01775)."""
        q, r = torch.linalg.qr(weight_OI)
        return self._round(r[: self.rank], q[:, : self.rank])

    def _split_rounding_error(
        self, weight_OI: torch.Tensor, *, pair: InitialPair | None
    ) -> tuple[InitialPair, torch.Tensor]:
        """Rounds, fits the adapter to the error, rounds what it leaves, and so on (LoftQ, arXiv:2310.08659)."""
        rounded_OI = round_weight(weight_OI, bits=self.loftq_bits)
        found = self._split_svd(weight_OI - rounded_OI)
        for _ in range(self.loftq_iter - 1):
            rounded_OI = round_weight(self._subtract(found, weight_OI), bits=self.loftq_bits)
            found = self._split_svd(weight_OI - rounded_OI)
        return pair or found, rounded_OI

    def _subtract(self, pair: InitialPair, weight_OI: torch.Tensor) -> torch.Tensor:
        a_RI, b_OR = pair.a_RI.to(weight_OI.device), pair.b_OR.to(weight_OI.device)
        return weight_OI - self.scaling * (b_OR @ a_RI)

    def _round(self, a_RI: torch.Tensor, b_OR: torch.Tensor) -> InitialPair:
        return InitialPair(*(each.to(self.adapter_dtype).float().contiguous() for each in (a_RI, b_OR)))


def get_oriented_weight(layer: nn.Module, *, name: str, method: str, tied_to: torch.Tensor) -> torch.Tensor:
    """The layer's weight as (O, I). Raises ConfigError for a layer that cannot be decomposed: one that is no linear
    layer, is quantized, lies elsewhere, or shares its weight with the embeddings (`tied_to`)."""
    weight = getattr(layer, "weight", None)
    reason = ""
    if not isinstance(layer, nn.Linear | Conv1D) or not isinstance(weight, torch.Tensor):
        reason = f"is a {type(layer).__name__}"
    elif not weight.is_floating_point():
        reason = "is quantized"
    elif weight.device.type == "meta":
        reason = "is offloaded by device_map"
    elif weight.data_ptr() == tied_to.data_ptr():
        reason = "shares its weight with the embeddings"
    if reason or weight is None:
        message = (
            f"init_lora_weights={method!r} takes the adapter out of a linear layer's own weight, and {name} {reason}; "
            "name other raw_lora_target_modules, or set init_lora_weights=True"
        )
        raise ConfigError([Problem(message, "init_lora_weights", "conflict")])
    oriented: torch.Tensor = weight.data.T if isinstance(layer, Conv1D) else weight.data
    return oriented


def set_oriented_weight(layer: nn.Module, weight_OI: torch.Tensor) -> None:
    """Writes the weight in place, in the layer's own number format and orientation."""
    weight: torch.Tensor = layer.weight.data  # type: ignore[assignment]
    weight.copy_(weight_OI.T if isinstance(layer, Conv1D) else weight_OI)
