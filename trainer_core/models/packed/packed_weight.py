"""One quantized weight in memory, whatever checkpoint it came from, and its way back to floating point."""

from dataclasses import dataclass

import torch

from trainer_core.models.packed.bit_packing import unpack_rows

CHUNK_VALUES = 2**22
"""Values that are unpacked at a time: what lies between integers and result stays below some 30 MiB."""


# Shapes: O outputs (rows), I inputs (columns), G groups a row, W words a row, Z words that hold O zero points.
@dataclass(frozen=True, slots=True)
class PackedWeight:
    """A weight of O rows and I columns: `(code - zero) * scale`, scale and zero shared by the columns of a group."""

    codes_OW: torch.Tensor
    """int32: unsigned codes, packed along the row."""
    scales_OG: torch.Tensor
    """In the checkpoint's own number format, in which the product is computed."""
    zeros_GZ: torch.Tensor | None
    """int32: unsigned zero points, packed along the outputs; None: the middle, `2 ** (num_bits - 1)`, everywhere."""
    groups_I: torch.Tensor | None
    """int32: the group of each column (act-order); None: groups of equal width, one after the other."""
    num_bits: int
    num_columns: int

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs."""
        return self.codes_OW.shape[0], self.num_columns

    @property
    def middle(self) -> int:
        """The zero point of a symmetric weight."""
        return 1 << (self.num_bits - 1)

    def dequantize(self, dtype: torch.dtype | None = None) -> torch.Tensor:
        """The weight as a matrix of O rows; None: in the scales' format. A few rows at a time, so that little more
        memory than the result is needed."""
        rows, columns = self.shape
        weight_OI = torch.empty(self.shape, dtype=dtype or self.scales_OG.dtype, device=self.codes_OW.device)
        zeros_OG = self._unpack_zeros()
        step = max(1, CHUNK_VALUES // max(columns, 1))
        for start in range(0, rows, step):
            chunk = slice(start, start + step)
            weight_OI[chunk] = self._dequantize_rows(chunk, zeros_OG)
        return weight_OI

    def _unpack_zeros(self) -> torch.Tensor | None:
        if self.zeros_GZ is None:
            return None
        return unpack_rows(self.zeros_GZ, num_bits=self.num_bits, num_columns=self.codes_OW.shape[0]).t()

    def _dequantize_rows(self, chunk: slice, zeros_OG: torch.Tensor | None) -> torch.Tensor:
        scales_RG = self.scales_OG[chunk]
        codes = unpack_rows(self.codes_OW[chunk], num_bits=self.num_bits, num_columns=self.num_columns)
        # Codes reach 255, which every 16-bit format holds exactly.
        values_RI = codes.to(scales_RG.dtype)
        zeros_RG = None if zeros_OG is None else zeros_OG[chunk].to(scales_RG.dtype)
        if self.groups_I is not None:
            groups_I = self.groups_I.long()
            zero = self.middle if zeros_RG is None else zeros_RG[:, groups_I]
            return values_RI.sub_(zero).mul_(scales_RG[:, groups_I])
        grouped_RGC = values_RI.view(values_RI.shape[0], scales_RG.shape[1], -1)
        zero = self.middle if zeros_RG is None else zeros_RG.unsqueeze(-1)
        return grouped_RGC.sub_(zero).mul_(scales_RG.unsqueeze(-1)).view_as(values_RI)
