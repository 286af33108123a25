"""The worker of the stubs, its jobs on the system's interpreter: the worker's own may lie where only root reads."""

import sys

from tests.integration.worker.stub_worker import STUB_PIPELINE
from worker.__main__ import main

if __name__ == "__main__":
    sys.executable = "/usr/bin/python3"
    sys.exit(main(pipeline_entry=[str(STUB_PIPELINE)]))
