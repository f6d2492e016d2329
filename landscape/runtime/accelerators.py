"""What torch is asked of the accelerator at hand, in one place and by its general interface, whatever its name.

Torch has one accelerator in a process (``torch.accelerator``): cards of NVIDIA or, in builds for ROCm, of AMD go by
``cuda``, Intel's by ``xpu``, Apple's by ``mps``, others by the name of their backend. What the interface leaves out
is asked of the backend's module (``torch.cuda``, ``torch.xpu``, ...), and may be missing there.
"""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# The backend by which processes add up tensors on their devices, each on one of its own; others talk over the host.
_COLLECTIVES = {"cuda": "nccl", "xpu": "xccl"}
# How a launcher shows a process one device of several.
_SHOWN_BY = {
    "cuda": ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"),
    "xpu": ("ZE_AFFINITY_MASK",),
}


def accelerator() -> str | None:
    """The type of the accelerator that is present, as torch names it; None: there is none."""
    found = torch.accelerator.current_accelerator(check_available=True)
    return None if found is None else found.type


def may_appear() -> bool:
    """Whether there is an accelerator, or a backend that was registered and may yet have one."""
    return torch.accelerator.is_available() or torch._C._get_privateuse1_backend_name() != "privateuseone"


def device_count(kind: str | None = None) -> int:
    """How many devices of this type there are; None: of the accelerator that is present."""
    own = accelerator()
    return int(torch.accelerator.device_count()) if own is not None and kind in (None, own) else 0


def choose(index: int) -> None:
    """Let the accelerator's ``index``-th device be the current one."""
    torch.accelerator.set_device_index(index)


def synchronize(device: torch.device) -> None:
    """Wait until a device has done all it was given; the CPU has."""
    if device.type == "cpu":
        return
    own = getattr(_module(device.type), "synchronize", None)  # all that a backend written in Python has
    if own is None:
        torch.accelerator.synchronize(device)
    else:
        own(*_index(device))


def collectives(kind: str) -> str | None:
    """The backend in which processes add up tensors on such devices; None: over the host."""
    name = _COLLECTIVES.get(kind)
    known = name is not None and dist.is_available() and getattr(dist, f"is_{name}_available", lambda: False)()
    return name if known else None


def shown_one(kind: str) -> bool:
    """Whether a launcher's variable names the devices that this process sees."""
    return any(os.environ.get(name) for name in _SHOWN_BY.get(kind, ()))


def hidden(kind: str) -> str | None:
    """The variable that is set to nothing, so that this process sees no device of this type."""
    return next((name for name in _SHOWN_BY.get(kind, ()) if os.environ.get(name) == ""), None)


# -- memory ----------------------------------------------------------------------------------------------------------


def free_bytes(device: torch.device) -> int | None:
    """Bytes that this process may take on an accelerator; None: its backend does not say."""
    module = _module(device.type)
    try:
        free = int(module.mem_get_info(device)[0])
    except (AttributeError, RuntimeError):
        return None
    try:  # what torch keeps of memory that was freed is free to it
        return free + int(module.memory_reserved(device)) - int(module.memory_allocated(device))
    except (AttributeError, RuntimeError):
        return free


def peak_bytes(device: torch.device) -> int | None:
    """Largest number of bytes that tensors took since the last call; None: unsaid."""
    module = _module(device.type)
    try:
        found = int(module.max_memory_allocated(device))
        module.reset_peak_memory_stats(device)
    except (AttributeError, RuntimeError):
        return None
    return found


def name_of(device: torch.device) -> str:
    """What the device calls itself."""
    named = getattr(_module(device.type), "get_device_name", None)
    return device.type if named is None else str(named(device))


# -- random numbers --------------------------------------------------------------------------------------------------


def generators() -> list[torch.device]:
    """The devices whose generators may be drawn from: none before the first use of one."""
    kind = accelerator()
    if kind is None or not getattr(_module(kind), "is_initialized", lambda: True)():
        return []
    return [torch.device(kind, i) for i in range(device_count())]


def generator_state(device: torch.device) -> Tensor:
    """Where the global generator of a device stands."""
    found: Tensor = _module(device.type).get_rng_state(*_index(device))
    return found


def set_generator_state(device: torch.device, state: Tensor) -> None:
    """Put the global generator of a device there."""
    _module(device.type).set_rng_state(state, *_index(device))


def _index(device: torch.device) -> tuple[int | None, ...]:
    return () if device.type == "mps" else (device.index,)  # mps has one generator and takes no index


def _module(kind: str) -> Any:
    return torch.get_device_module(kind)
