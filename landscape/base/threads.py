"""How a computation's threads wait for each other: asleep, so that a busy neighbour does not multiply the work.

By default OpenMP's threads spin between two operations, for the next one may come at once. Where another program
holds a core, the thread that is to come cannot, and all others spin for as long as it waits. Measured beside eight
other programs on two cores, a training step of an MLP of 200,000 weights took 25 and 41 ms of processor time of two
spinning threads, 2.0 of two that sleep, and 1.4 of one; a step of ResNet-20 1,100 to 1,800, 130 and 80 ms. Waking a
thread costs some microseconds an operation; no number changes.
"""

from __future__ import annotations

import os
import sys

_ASLEEP = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}  # GNU's library, and LLVM's and Intel's


def wait_asleep() -> None:
    """Let the threads of this process and of those that it starts sleep while they wait, unless its user said how.

    For programs that own their process, before torch is loaded, which reads it once.
    """
    if "torch" not in sys.modules and not any(name in os.environ for name in (*_ASLEEP, "GOMP_SPINCOUNT")):
        os.environ.update(_ASLEEP)


def waiting() -> str:
    """How they wait: ``asleep``, or ``spinning``."""
    policy = os.environ.get("OMP_WAIT_POLICY", "").strip().lower()
    return "asleep" if policy == "passive" or os.environ.get("GOMP_SPINCOUNT") == "0" else "spinning"
