"""Right gradients of BatchNorm and InstanceNorm for one example alone.

On CPUs torch (seen in 2.13) takes the gradient that arrives at ``batch_norm`` for one that lies in memory as the
input does, or the other way round, when there is one example: with tokens on one side
(``flatten(2).transpose(1, 2)``) the derivatives are those of shuffled values, by more than 100 %, in silence. Laid
out plainly, both are right. Batches of two and more are right as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .trees import leaves

_NORMS = frozenset({F.batch_norm, torch.batch_norm, F.instance_norm, torch.instance_norm})


def right_for_one_example(model: nn.Module) -> None:
    """Let passes of one example lay out what goes into and comes back to these layers plainly.

    Args:
        model: A network that nobody else uses.
    """
    for hooks in (model._forward_pre_hooks, model._forward_hooks):  # of a network that this is a copy of
        for key in [k for k, hook in hooks.items() if isinstance(getattr(hook, "__self__", None), _Around)]:
            del hooks[key]
    around = _Around()
    model.register_forward_pre_hook(around.enter, with_kwargs=True)
    model.register_forward_hook(around.leave, always_call=True)


class PlainLayout(TorchFunctionMode):
    """Inside, inputs of these layers and gradients that arrive at them lie contiguously."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> object:
        kwargs = dict(kwargs or {})
        if func not in _NORMS:
            return func(*args, **kwargs)
        if args:
            args = (args[0].contiguous(), *args[1:])
        else:
            kwargs["input"] = kwargs["input"].contiguous()
        found: Tensor = func(*args, **kwargs)
        # Going back, `flatten` gives the gradient the plain layout; going forward it copies nothing.
        return found.flatten().view(found.shape)


class _Around:
    """Hooks around a network's pass."""

    def __init__(self) -> None:
        self.modes: list[Any] = []

    def enter(self, model: nn.Module, args: object, kwargs: object) -> None:
        first = next(iter(leaves((args, kwargs))), None)
        alone = first is not None and first.ndim > 0 and len(first) == 1 and first.device.type == "cpu"
        self.modes.append(PlainLayout() if alone and torch.is_grad_enabled() else None)
        if self.modes[-1] is not None:
            self.modes[-1].__enter__()

    def leave(self, *_: object) -> None:
        mode = self.modes.pop() if self.modes else None  # a hook before ours may have failed
        if mode is not None:
            mode.__exit__(None, None, None)
