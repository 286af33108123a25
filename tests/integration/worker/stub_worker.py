"""The real worker on the pipeline whose steps are stubs."""

import sys
from pathlib import Path

from worker.__main__ import main

STUB_PIPELINE = Path(__file__).parents[2] / "unit" / "trainer_core" / "proc" / "stub_pipeline.py"

if __name__ == "__main__":
    sys.exit(main(pipeline_entry=[str(STUB_PIPELINE)]))
