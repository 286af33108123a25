"""Which of the quantization's keys go with which of our quantizers."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainer_core.errors import Problem

if TYPE_CHECKING:
    from trainer_core.config.fields import Config

OWN_QUANTIZERS = ("gptq", "awq", "fp8", "w8a8", "bnb")
"""Quantizers of others may read whatever key they like."""

READERS: dict[str, tuple[object, tuple[str, ...]]] = {
    "gptq_group_size": (128, ("gptq", "awq")),
    "dampening_frac": (0.01, ("gptq", "w8a8")),
    "actorder": ("static", ("gptq", "w8a8")),
    "smoothing_strength": (0.5, ("w8a8",)),
    "quantization_format": ("compressed-tensors", ("gptq",)),
}
"""Keys that only some quantizers read: the default, and who reads another value."""

BITS: dict[str, tuple[int, ...]] = {"bnb": (4, 8), "fp8": (4, 8), "w8a8": (4, 8)}
"""Values of gptq_bits by quantizer where not all fit; fp8 and w8a8 have 8 bits, and take the default for these."""


def find_quantizer_problems(config: "Config") -> Iterator[Problem]:
    """What is wrong between `quantizer_key` and the keys that say how it works."""
    key = config.quantizer_key
    if key not in OWN_QUANTIZERS:
        return
    for name, (default, readers) in READERS.items():
        value = getattr(config, name)
        if value != default and key not in readers:
            message = (
                f"{name}={value!r} is read by quantizer_key={' and '.join(map(repr, readers))} only; leave it at "
                f"{default!r}, or change quantizer_key={key!r}"
            )
            yield Problem(message, name, "conflict")
    if config.gptq_bits not in BITS.get(key, (config.gptq_bits,)):
        widths = "4 and 8 bits" if key == "bnb" else "8 bits only"
        message = f"gptq_bits={config.gptq_bits}: quantizer_key={key!r} knows {widths}; gptq and awq know 2, 3, 4 and 8"
        yield Problem(message, "gptq_bits", "conflict")
    if config.actorder == "group":
        message = (
            "actorder='group' needs an index of groups in the checkpoint, which llm-compressor does not write any "
            "more; use 'static', which takes the columns in the same order and leaves the groups in place"
        )
        yield Problem(message, "actorder", "invalid_value")
