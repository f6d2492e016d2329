"""What must be alike in every pass of one step: random numbers replayed, running statistics moved once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class RandomState:
    """The global generators of the CPU and of every GPU in use at one moment."""

    states: dict[int | None, Tensor]

    @classmethod
    def now(cls) -> RandomState:
        """The present state."""
        states: dict[int | None, Tensor] = {None: torch.get_rng_state()}
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            states |= {i: torch.cuda.get_rng_state(i) for i in range(torch.cuda.device_count())}
        return cls(states)

    def restore(self) -> None:
        """Set the generators back to it."""
        for device, state in self.states.items():
            if device is None:
                torch.set_rng_state(state)
            else:
                torch.cuda.set_rng_state(state, device)


@contextmanager
def frozen_running_statistics() -> Iterator[None]:
    """Leave what layers count on the way (BatchNorm, InstanceNorm, spectral norm) as it was before the block.

    A hook on every module's forward copies the buffers of a training module before it first runs; afterwards
    they are written back. Setting momentum to 0, the known trick, would still count batches in
    ``num_batches_tracked`` and forgets InstanceNorm.
    """
    saved: dict[nn.Module, dict[str, Tensor]] = {}

    def keep(module: nn.Module, _: Any) -> None:
        if module.training and module._buffers and module not in saved:
            saved[module] = {k: b.clone() for k, b in module.named_buffers(recurse=False)}

    handle = nn.modules.module.register_module_forward_pre_hook(keep)
    try:
        yield
    finally:
        handle.remove()
        with torch.no_grad():
            for module, buffers in saved.items():
                for name, value in buffers.items():
                    module.get_buffer(name).copy_(value)
