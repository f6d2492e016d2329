"""A module called with other tensors in place of its own, which it has again afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call


def called_with(
    module: nn.Module, tensors: Mapping[str, Tensor], args: Sequence[Any], kwargs: Mapping[str, Any] | None = None
) -> Any:
    """``torch.func.functional_call``, also right where a module inside has two names.

    Torch (2.13) puts tensors back name by name: under the second name it finds what it put there under the first, and
    leaves that in the module. Here each module gets its tensors once, and all modules that share one get the same.

    Example:
        >>> import torch
        >>> model = torch.nn.ModuleDict({"a": torch.nn.Linear(1, 1)})
        >>> model["again"], weight = model["a"], model["a"].weight
        >>> model.forward = lambda x: model["again"](x)
        >>> called_with(model, {"a.weight": torch.zeros(1, 1), "a.bias": torch.ones(1)}, (torch.ones(1, 1),))
        tensor([[1.]])
        >>> model["a"].weight is weight
        True
    """
    places: dict[int, list[str]] = {}
    for prefix, part in module.named_modules():  # each once
        for name, tensor in (*part._parameters.items(), *part._buffers.items()):
            if tensor is not None:
                places.setdefault(id(tensor), []).append(f"{prefix}.{name}" if prefix else name)
    own = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))
    named = {place: tensor for name, tensor in tensors.items() for place in places[id(own[name])]}
    return functional_call(module, named, tuple(args), dict(kwargs or {}), tie_weights=False)
