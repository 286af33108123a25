"""The real worker on a host with two GPUs that are none, and on the pipeline whose steps are stubs."""

import sys
from pathlib import Path

import worker.__main__
from worker.gpus import Gpu

STUB_PIPELINE = Path(__file__).parent / "stub_pipeline.py"
STUB_PREVIEW = Path(__file__).parent / "stub_preview.py"
NUM_GPUS = 2

if __name__ == "__main__":
    # This host has none, and a job of two ranks wants two.
    worker.__main__.find_gpus = lambda wanted=None: tuple(Gpu(index, "stub", 1 << 30) for index in range(NUM_GPUS))
    sys.exit(worker.__main__.main(pipeline_entry=[str(STUB_PIPELINE)], preview_entry=[str(STUB_PREVIEW)]))
