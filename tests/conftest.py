"""One thread per test process: two processes with two spinning threads each are far slower on two cores.

And, as in every command, freed memory is kept.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from landscape.allocator import keep_freed_memory

keep_freed_memory()
