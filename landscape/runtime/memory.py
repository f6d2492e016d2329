"""How much memory is free."""

from __future__ import annotations

from pathlib import Path

import torch

from .accelerators import collectives, device_count, free_bytes
from .distributed import local_processes

_UNSAID = 4 * 2**30  # taken for free on a device that does not say: what runs out is caught anyway


def free_memory(device: torch.device) -> int:
    """Bytes that are free on ``device`` for this process; on the CPU within the limits of the control group."""
    if device.type not in ("cpu", "mps"):  # Apple's accelerators share the host's memory
        found = free_bytes(device)
        sharing = 1 if collectives(device.type) else -(-local_processes() // max(1, device_count()))
        return (_UNSAID if found is None else found) // sharing
    free = [_system_available(), _group_available()]
    return min((f for f in free if f is not None), default=2 * 2**30) // local_processes()


def _system_available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:  # not Linux
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), None)


def _group_available() -> int | None:
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        used = (group / "memory.current").read_text(encoding="ascii").strip()
        return None if limit == "max" else max(0, int(limit) - int(used))
    except (OSError, ValueError):
        return None
