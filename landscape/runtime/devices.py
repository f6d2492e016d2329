"""Where things are computed, and in which floating type."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..base.errors import UsageError
from .distributed import own_gpu
from .shared_memory import refuse_shared_memory


def pick_device(device: str | torch.device) -> torch.device:
    """Turn ``auto``, ``cpu``, ``cuda`` or ``cuda:i`` into a device that exists; several processes have one each.

    Raises:
        UsageError: If CUDA is asked for and absent (the CPU is never taken silently), or has too few devices.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = torch.device(device)
    if chosen.type == "cuda" and (not torch.cuda.is_available() or (chosen.index or 0) >= torch.cuda.device_count()):
        found = (
            f"{torch.cuda.device_count()} CUDA device(s) found"
            if torch.cuda.is_available()
            else "CUDA is not available"
        )
        raise UsageError(f"{found}", f"`device={device!r}`", "use `device='cpu'`")
    own = own_gpu(chosen.index) if chosen.type == "cuda" else None
    return chosen if own is None else torch.device("cuda", own)


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
