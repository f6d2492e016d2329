"""One thread per test process: two processes with two spinning threads each are far slower on two cores."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
