"""The real worker on the pipeline whose steps are stubs, with stand-bys of that pipeline."""

import sys

import worker.__main__
from tests.integration.worker.stub_worker import STUB_PIPELINE
from worker.standby import StandbyKeeper

ENTRY = (str(STUB_PIPELINE),)

if __name__ == "__main__":
    # It keeps none for another program than the real one, which may not know how to wait: this one does.
    worker.__main__._build_standby = lambda settings, *, start_folder, entry: StandbyKeeper(
        settings, start_folder=start_folder, entry=entry
    )
    if "--as-user" in sys.argv:
        sys.argv.remove("--as-user")
        sys.executable = "/usr/bin/python3"
    sys.exit(worker.__main__.main(pipeline_entry=ENTRY))
