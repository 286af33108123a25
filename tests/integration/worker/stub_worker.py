"""The real worker on the pipeline whose steps are stubs, and with `--stub-previews` on previews that are stubs too."""

import sys
from pathlib import Path

from worker.__main__ import main
from worker.preview_process import PREVIEW_ENTRY

HERE = Path(__file__).parent
STUB_PIPELINE = HERE.parents[1] / "unit" / "trainer_core" / "proc" / "stub_pipeline.py"
FLAG = "--stub-previews"

if __name__ == "__main__":
    entry = (str(HERE / "stub_preview.py"),) if FLAG in sys.argv else PREVIEW_ENTRY
    arguments = [argument for argument in sys.argv[1:] if argument != FLAG]
    sys.exit(main(arguments, pipeline_entry=[str(STUB_PIPELINE)], preview_entry=entry))
