"""Where things are computed, and in which floating type."""

from __future__ import annotations

import logging
from functools import cache

import torch
from torch import Tensor, nn

from ..base.errors import UsageError, argument, is_the_machine
from .accelerators import accelerator, device_count, hidden
from .distributed import own_device
from .shared_memory import refuse_shared_memory

log = logging.getLogger(__name__)


def pick_device(device: str | torch.device) -> torch.device:
    """Turn ``auto``, ``cpu`` or an accelerator's name into a device that exists; several processes have one each.

    Accelerators go by torch's names: ``cuda`` (AMD's cards too), ``mps``, ``xpu`` or whatever backend is installed,
    each with ``:i`` for the i-th. ``auto`` is the accelerator that torch has, else the CPU.

    Raises:
        UsageError: If what is asked for is absent (the CPU is never taken silently), or has too few devices.
    """
    own = accelerator()
    if device == "auto":
        device = "cpu" if own is None else own
        log.info(
            "%s", f"device: {own}, the accelerator of this torch" if own else "device: cpu, torch finds no other"
        )
    try:
        chosen = torch.device(device)
    except RuntimeError:
        fix = f"use {' or '.join(argument('device', d) for d in (own, 'cpu') if d)}"
        raise UsageError(f"unknown device {device!r}", argument("device", str(device)), fix) from None
    if chosen.type == "cpu":
        return chosen
    count = device_count(chosen.type)
    if (chosen.index or 0) >= count:
        name = {"cuda": "CUDA"}.get(chosen.type, chosen.type)
        emptied = hidden(chosen.type)
        found = f"{count} {name} device(s) found" if count else f"{name} is not available"
        found += f", and {emptied} is set to nothing" if emptied else ""
        raise UsageError(found, argument("device", str(device)), "use `device='cpu'`")
    index = own_device(chosen.type, chosen.index)
    return chosen if index is None else torch.device(chosen.type, index)


@cache
def has_float64(kind: str) -> bool:
    """Whether devices of this type have double precision; Apple's do not. Tried once."""
    try:
        torch.zeros((), dtype=torch.float64, device=kind)
    except (TypeError, RuntimeError) as error:
        if is_the_machine(error):  # a device that is full or gone has not been asked
            raise
        return False
    return True


def sums_on(device: torch.device) -> torch.device:
    """Where float64 sums of what a device computes are kept: there, or on the host where it has no float64."""
    return device if has_float64(device.type) else torch.device("cpu")


def wide(tensor: Tensor) -> Tensor:
    """A real tensor in float64, on the host if its device has none; the graph goes through."""
    return tensor.to(sums_on(tensor.device), torch.float64)


def sent(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A tensor at a device, in a type; a copy to a device is not waited for.

    CUDA and its like take ordinary memory aside before the call returns; Apple's may read it later, and the way back
    must be waited for by whoever reads it.
    """
    late = tensor.device.type == "cpu" and device.type not in ("cpu", "mps")
    return tensor.to(device, dtype, non_blocking=late)


def widest(tensor: Tensor) -> Tensor:
    """A real tensor in the widest type that its device has."""
    return tensor.to(torch.float64 if has_float64(tensor.device.type) else torch.float32)


def check_precision(device: torch.device, precision: torch.dtype) -> None:
    """Refuse float64 on a device that has none.

    Raises:
        UsageError: If so.
    """
    if precision == torch.float64 and not has_float64(device.type):
        fix = f"use {argument('dtype', 'float32')}, or {argument('device', 'cpu')}"
        raise UsageError(f"{device.type} has no float64", argument("dtype", "float64"), fix)


def floating_type(model: nn.Module, dtype: torch.dtype | str | None) -> torch.dtype:
    """The type to compute in: what is asked for, else the model's own, float32 for half types.

    Raises:
        UsageError: If it is neither float32 nor float64.
    """
    if dtype is not None:
        found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
        if found not in (torch.float32, torch.float64):
            # Weights in half precision have equal values in float32; products computed in it miss every tolerance.
            raise UsageError(
                f"cannot compute in {dtype!r}".replace("torch.", ""), "`dtype=`", "use float32 or float64"
            )
        return found
    kinds = (p.dtype for p in model.parameters() if p.is_floating_point() or p.is_complex())
    own = next(kinds, torch.float32).to_real()
    return own if own in (torch.float32, torch.float64) else torch.float32


def type_at(tensor: Tensor, precision: torch.dtype) -> torch.dtype:
    """The type of a tensor's numbers at a floating ``precision``: real, complex of two such, or whole as they are."""
    if tensor.is_complex():
        return precision.to_complex()
    return precision if tensor.is_floating_point() else tensor.dtype


def moved(model: nn.Module, device: torch.device, precision: torch.dtype) -> nn.Module:
    """A network on a device, in place, with its real and complex weights and buffers at one precision.

    Torch's own ``to(dtype)`` would drop imaginary parts.

    Raises:
        UsageError: If parameters share memory untied: moved, they would not.
    """
    refuse_shared_memory(model)
    if not any(t.is_complex() for t in (*model.parameters(), *model.buffers())):
        return model.to(device, precision)
    model.to(device)
    model._apply(lambda t: t.to(type_at(t, precision)))
    return model
