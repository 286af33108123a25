"""For all tests."""

import os

# The models are tiny: a second thread gains nothing, and two processes with two spinning threads each on two cores
# were seen to slow each other down tenfold. Set before torch is imported, and inherited by the steps that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A worker's stand-by gets ready for seconds beside the tests; those that are about it turn it on.
os.environ.setdefault("FINESMITH_STANDBY", "off")
