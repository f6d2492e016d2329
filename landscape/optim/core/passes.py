"""What must be alike in every pass of one step: random numbers replayed, running statistics moved once."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...runtime.accelerators import generator_state, generators, set_generator_state


@dataclass(frozen=True)
class RandomState:
    """The global generators at one moment: torch's on the CPU and every accelerator in use, NumPy's and Python's."""

    states: dict[torch.device, Tensor]
    numpy: Any
    python: Any

    @classmethod
    def now(cls) -> RandomState:
        """The present state."""
        states = {torch.device("cpu"): torch.get_rng_state()}
        states |= {device: generator_state(device) for device in generators()}
        return cls(states, np.random.get_state(), random.getstate())  # noqa: NPY002 - users' code draws from it

    def restore(self) -> None:
        """Set the generators back to it."""
        for device, state in self.states.items():
            if device.type == "cpu":
                torch.set_rng_state(state)
            else:
                set_generator_state(device, state)
        np.random.set_state(self.numpy)  # noqa: NPY002
        random.setstate(self.python)


def forget_casts() -> None:
    """Let autocast take the weights as they are now.

    Within one block of it torch keeps the copies of the weights in the lower precision, whatever becomes of the
    weights: a pass at moved weights would see those of before, and SAM would be its base. It must be called wherever
    weights have moved, and after passes without gradients, whose copies have none.
    """
    torch.clear_autocast_cache()


@contextmanager
def frozen_running_statistics() -> Iterator[None]:
    """Leave what layers count on the way (BatchNorm, InstanceNorm, spectral norm) as it was before the block.

    A hook on every module's forward copies the buffers of a training module before it first runs; afterwards
    they are written back. Setting momentum to 0, the known trick, would still count batches in
    ``num_batches_tracked`` and forgets InstanceNorm.
    """
    saved: dict[nn.Module, dict[str, Tensor]] = {}

    def keep(module: nn.Module, _: object) -> None:
        if module.training and module._buffers and module not in saved:
            saved[module] = {k: b.clone() for k, b in module.named_buffers(recurse=False)}

    handle = nn.modules.module.register_module_forward_pre_hook(keep)
    hooks: Any = handle.hooks_dict_ref()
    try:
        yield
    finally:
        # Not `handle.remove()`: in a cycle that is collected its weak reference to the hooks is dead already.
        hooks.pop(handle.id, None)
        with torch.no_grad():
            for module, buffers in saved.items():
                for name, value in buffers.items():
                    module.get_buffer(name).copy_(value)
