"""Integers of 2, 3, 4 or 8 bits laid one after the other into 32-bit words, without a gap.

Value i of a row begins at bit `i * num_bits` of that row's words, lowest bit first; with 3 bits some values lie across
two words. Both checkpoint layouts pack like this.
"""

import torch

PACKABLE_BITS = (2, 3, 4, 8)
_VALUES_PER_UNIT = 8
"""Eight values fill `num_bits` whole bytes, whatever the width."""


def count_words(num_values: int, *, num_bits: int) -> int:
    """How many 32-bit words hold `num_values` values."""
    return -(-num_values * num_bits // 32)


def pack_rows(values: torch.Tensor, *, num_bits: int) -> torch.Tensor:
    """Packs each row of a uint8 matrix into int32 words; bits that no value fills are zero."""
    rows, columns = values.shape
    units = -(-columns // _VALUES_PER_UNIT)
    padded = torch.nn.functional.pad(values, (0, units * _VALUES_PER_UNIT - columns))
    in_units = padded.reshape(rows, units, _VALUES_PER_UNIT).to(torch.int64)
    as_bytes = torch.zeros(rows, units, num_bits, dtype=torch.int64, device=values.device)
    for index in range(_VALUES_PER_UNIT):
        byte, offset = divmod(index * num_bits, 8)
        as_bytes[:, :, byte] |= (in_units[:, :, index] << offset) & 0xFF
        if offset + num_bits > 8:
            as_bytes[:, :, byte + 1] |= in_units[:, :, index] >> (8 - offset)
    num_bytes = 4 * count_words(columns, num_bits=num_bits)
    flat = as_bytes.reshape(rows, units * num_bits).to(torch.uint8)
    filled = min(num_bytes, flat.shape[1])
    words = torch.zeros(rows, num_bytes, dtype=torch.uint8, device=values.device)
    words[:, :filled] = flat[:, :filled]
    return words.view(torch.int32)


def unpack_rows(words: torch.Tensor, *, num_bits: int, num_columns: int) -> torch.Tensor:
    """The first `num_columns` values of each row, as uint8."""
    as_bytes = words.contiguous().view(torch.uint8)
    if num_bits == 8:
        return as_bytes[:, :num_columns]
    if num_bits == 3:
        return _unpack_three_bits(as_bytes, num_columns=num_columns)
    shifts = torch.arange(0, 8, num_bits, dtype=torch.uint8, device=words.device)
    values = (as_bytes.unsqueeze(-1) >> shifts).bitwise_and_(2**num_bits - 1)
    return values.reshape(words.shape[0], -1)[:, :num_columns]


def _unpack_three_bits(as_bytes: torch.Tensor, *, num_columns: int) -> torch.Tensor:
    """Three bytes hold eight values."""
    units = -(-num_columns // _VALUES_PER_UNIT)
    missing = max(3 * units - as_bytes.shape[1], 0)
    padded = torch.nn.functional.pad(as_bytes, (0, missing))[:, : 3 * units]
    first, second, third = padded.reshape(-1, units, 3).to(torch.int32).unbind(-1)
    joined = first | (second << 8) | (third << 16)
    shifts = torch.arange(0, 24, 3, dtype=torch.int32, device=as_bytes.device)
    values = ((joined.unsqueeze(-1) >> shifts) & 7).to(torch.uint8)
    return values.reshape(as_bytes.shape[0], -1)[:, :num_columns]
