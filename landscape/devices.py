"""Where things are computed, and in which floating type."""

from __future__ import annotations

import torch
from torch import nn

from .distributed import own_gpu
from .errors import UsageError


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
        raise UsageError(f"{found}", f"--device {device}", "use --device cpu")
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
                f"cannot compute in {dtype!r}".replace("torch.", ""), "--dtype", "use float32 or float64"
            )
        return found
    own = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    return own if own in (torch.float32, torch.float64) else torch.float32
