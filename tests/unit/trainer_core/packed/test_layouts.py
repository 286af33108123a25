"""The two layouts: bit by bit against hand-computed words, and both ways for every shape."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer_core.models.packed.bit_packing import PACKABLE_BITS, pack_rows, unpack_rows
from trainer_core.models.packed.compressed_layout import read_compressed_layer, write_compressed_layer
from trainer_core.models.packed.gptq_layout import FORMATS, read_gptq_layer, write_gptq_layer
from trainer_core.models.packed.packed_weight import PackedWeight


def _signed(word: int) -> int:
    return word - 2**32 if word >= 2**31 else word


@pytest.mark.parametrize(
    ("num_bits", "values", "words"),
    [
        (4, [1, 2, 3, 4, 5, 6, 7, 15], [0xF7654321]),
        (8, [1, 2, 3, 255, 9], [0xFF030201, 9]),
        (2, [3, 0, 1, 2], [0b10_01_00_11]),
        # The eleventh value of 3 bits lies across words: two bits end the first, its high bit begins the second.
        (3, [0] * 10 + [0b110, 0b101], [0b10 << 30, 0b1011]),
        (3, [7] * 32, [0xFFFFFFFF] * 3),
    ],
)
def test_values_lie_one_after_the_other_from_the_lowest_bit(num_bits, values, words) -> None:
    packed = pack_rows(torch.tensor([values], dtype=torch.uint8), num_bits=num_bits)
    assert packed.tolist() == [[_signed(word) for word in words]]


def test_a_gptq_layer_is_packed_down_the_inputs_and_its_zero_points_along_the_outputs_less_one() -> None:
    # Two outputs, eight inputs, one group: output 0 has the codes 0 to 7, output 1 the codes 8 to 15, zero points 8, 3.
    codes = torch.arange(16, dtype=torch.uint8).view(2, 8)
    zeros = torch.tensor([[8, 3]], dtype=torch.uint8)
    scales = torch.tensor([[0.5], [2.0]])
    weight = PackedWeight(pack_rows(codes, num_bits=4), scales, pack_rows(zeros, num_bits=4), None, 4, 8)

    first = write_gptq_layer(weight, checkpoint_format="gptq")
    assert first["qweight"].tolist() == [[_signed(0x76543210), _signed(0xFEDCBA98)]]
    assert first["qzeros"].tolist() == [[0x27]]
    assert first["scales"].tolist() == [[0.5, 2.0]]
    assert first["g_idx"].tolist() == [0] * 8
    assert write_gptq_layer(weight, checkpoint_format="gptq_v2")["qzeros"].tolist() == [[0x38]]
    assert weight.dequantize().tolist() == [
        [(code - 8) * 0.5 for code in range(8)],
        [(code - 3) * 2.0 for code in range(8, 16)],
    ]


def test_a_zero_point_of_nothing_less_one_is_the_largest_value_and_comes_back() -> None:
    zeros = torch.tensor([[0, 5]], dtype=torch.uint8)
    weight = PackedWeight(
        torch.zeros(2, 1, dtype=torch.int32), torch.ones(2, 1), pack_rows(zeros, num_bits=4), None, 4, 8
    )
    stored = write_gptq_layer(weight, checkpoint_format="gptq")
    assert stored["qzeros"].tolist() == [[0x4F]]
    back = read_gptq_layer(stored, num_bits=4, checkpoint_format="gptq", group_size=8, symmetric=False)
    assert torch.equal(back.dequantize(), weight.dequantize())


def test_columns_take_scale_and_zero_of_the_group_that_the_index_names() -> None:
    codes = torch.tensor([[1, 2, 3, 4]], dtype=torch.uint8)
    groups = torch.tensor([1, 0, 1, 0], dtype=torch.int32)
    weight = PackedWeight(pack_rows(codes, num_bits=4), torch.tensor([[1.0, 10.0]]), None, groups, 4, 4)
    assert weight.dequantize().tolist() == [[-70.0, -6.0, -50.0, -4.0]]


def test_a_checkpoint_without_an_index_has_groups_in_order() -> None:
    weight = _make_weight(num_bits=4, shape=(8, 64), num_groups=2, symmetric=True, shuffled=False, seed=0)
    stored = write_gptq_layer(weight, checkpoint_format="gptq")
    del stored["g_idx"]
    back = read_gptq_layer(stored, num_bits=4, checkpoint_format="gptq", group_size=32, symmetric=True)
    assert back.groups_I is None
    assert torch.equal(back.dequantize(), weight.dequantize())


SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 6), st.integers(1, 24))
"""Outputs, groups, columns of a group."""


@settings(max_examples=80, deadline=None)
@given(
    num_bits=st.sampled_from(PACKABLE_BITS),
    shape=SHAPES,
    symmetric=st.booleans(),
    shuffled=st.booleans(),
    checkpoint_format=st.sampled_from(FORMATS),
    seed=st.integers(0, 2**16),
)
def test_every_weight_goes_both_ways_bit_for_bit(num_bits, shape, symmetric, shuffled, checkpoint_format, seed) -> None:
    outputs, num_groups, width = shape
    sizes = (outputs, num_groups * width)
    weight = _make_weight(num_bits, sizes, num_groups=num_groups, symmetric=symmetric, shuffled=shuffled, seed=seed)
    compressed = write_compressed_layer(weight)
    gptq = write_gptq_layer(read_compressed_layer(compressed, num_bits=num_bits), checkpoint_format=checkpoint_format)
    back = read_gptq_layer(
        gptq, num_bits=num_bits, checkpoint_format=checkpoint_format, group_size=width, symmetric=symmetric
    )
    _assert_same(write_compressed_layer(back), compressed)
    _assert_same(write_gptq_layer(back, checkpoint_format=checkpoint_format), gptq)
    assert torch.equal(back.dequantize(), weight.dequantize())


@pytest.mark.parametrize("num_bits", PACKABLE_BITS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("num_groups", "symmetric"), [(4, True), (4, False), (1, True), (1, False)])
def test_weights_equal_what_compressed_tensors_decompresses(num_bits, dtype, num_groups, symmetric) -> None:
    from compressed_tensors.compressors import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    weight = _make_weight(num_bits, (24, 96), num_groups=num_groups, symmetric=symmetric, shuffled=False, seed=1)
    stored = write_compressed_layer(weight)
    stored["weight_scale"] = stored["weight_scale"].to(dtype)
    strategy = {"strategy": "channel"} if num_groups == 1 else {"strategy": "group", "group_size": 96 // num_groups}
    arguments = QuantizationArgs(num_bits=num_bits, type="int", symmetric=symmetric, **strategy)
    scheme = QuantizationScheme(targets=["Linear"], weights=arguments)
    theirs = PackedQuantizationCompressor.decompress(stored, scheme)["weight"]
    ours = read_compressed_layer(stored, num_bits=num_bits).dequantize()
    assert ours.dtype is dtype
    assert torch.equal(ours, theirs)


def test_large_weights_are_unpacked_in_parts(monkeypatch) -> None:
    weight = _make_weight(4, (33, 64), num_groups=2, symmetric=False, shuffled=True, seed=2)
    whole = weight.dequantize(torch.bfloat16)
    # Parts of a real size would make the test slow.
    monkeypatch.setattr("trainer_core.models.packed.packed_weight.CHUNK_VALUES", 300)
    assert torch.equal(weight.dequantize(torch.bfloat16), whole)


def _make_weight(
    num_bits: int, shape: tuple[int, int], *, num_groups: int, symmetric: bool, shuffled: bool, seed: int
) -> PackedWeight:
    random = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 2**num_bits, shape, generator=random, dtype=torch.uint8)
    zeros = torch.randint(0, 2**num_bits, (num_groups, shape[0]), generator=random, dtype=torch.uint8)
    groups = torch.arange(shape[1], dtype=torch.int32) // (shape[1] // num_groups)
    order = torch.randperm(shape[1], generator=random)
    is_shuffled = shuffled and not torch.equal(groups[order], groups)
    assert torch.equal(unpack_rows(pack_rows(codes, num_bits=num_bits), num_bits=num_bits, num_columns=shape[1]), codes)
    return PackedWeight(
        codes_OW=pack_rows(codes, num_bits=num_bits),
        scales_OG=torch.rand(shape[0], num_groups, generator=random),
        zeros_GZ=None if symmetric else pack_rows(zeros, num_bits=num_bits),
        groups_I=groups[order].contiguous() if is_shuffled else None,
        num_bits=num_bits,
        num_columns=shape[1],
    )


def _assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name
