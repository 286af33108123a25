"""DeepSpeed's AdamW for state in host memory, which is compiled where it is first used."""

import subprocess


def can_build_host_adam() -> str | None:
    """Compiles and loads it, which takes a minute the first time; returns why it cannot be, None when it can."""
    from deepspeed.accelerator import get_accelerator
    from deepspeed.ops.op_builder.builder import CUDAMismatchException, MissingCUDAException

    try:
        get_accelerator().create_op_builder("CPUAdamBuilder").load()
    except (
        OSError,
        ImportError,
        RuntimeError,
        AssertionError,
        AttributeError,
        subprocess.SubprocessError,
        CUDAMismatchException,
        MissingCUDAException,
    ) as error:
        lines = str(error).strip().splitlines()
        return f"its compilation fails here ({type(error).__name__}: {lines[0] if lines else 'no reason given'})"
    return None
