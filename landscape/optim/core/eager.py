"""torch's base optimizers, without asking its compiler to leave them alone.

The methods of ``torch.optim`` import the compiler to say that it is not to compile them. Nothing is compiled in a
training of ours, and that import takes longer than a small one. These are the same optimizers, computing with the
same functions; what calls them, hooks them or copies them sees no difference.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

zero_grad = inspect.unwrap(Optimizer.zero_grad)
_add_param_group = inspect.unwrap(Optimizer.add_param_group)
_state_dict = inspect.unwrap(Optimizer.state_dict)
_load_state_dict = inspect.unwrap(Optimizer.load_state_dict)


class Eager(Optimizer):
    """What the constructors and steps of ``torch.optim`` would import the compiler for, called as it is."""

    def step(self, closure: Callable[[], object] | None = None) -> Any:
        """The step of the class behind this one, without gradients of its own unless it is differentiable."""
        with torch.set_grad_enabled(bool(self.defaults["differentiable"])):
            return _step_of(type(self))(self, closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As torch's."""
        zero_grad(self, set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's."""
        _add_param_group(self, param_group)

    def state_dict(self) -> dict[str, Any]:
        """As torch's."""
        return dict(_state_dict(self))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's."""
        _load_state_dict(self, state_dict)


def _step_of(kind: type[object]) -> Callable[..., object]:
    behind: Any = kind.__mro__[kind.__mro__.index(Eager) + 1]
    step: Callable[..., Any] = inspect.unwrap(behind.step)
    return step


class SGD(Eager, torch.optim.SGD):
    """`torch.optim.SGD`."""


class Adam(Eager, torch.optim.Adam):
    """`torch.optim.Adam`."""


class AdamW(Eager, torch.optim.AdamW):
    """`torch.optim.AdamW`."""
