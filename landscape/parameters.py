"""Flat views of a network's parameters, and everything about leaving a network as it was."""

from __future__ import annotations

import copy
import random
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from .errors import UsageError
from .trees import leaves


def name_matcher(pattern: str) -> Callable[[str], object]:
    """A function that says whether a regular expression matches a parameter's name anywhere.

    Raises:
        UsageError: If the pattern is broken.
    """
    try:
        return re.compile(pattern).search
    except re.error as error:
        raise UsageError(f"{pattern!r} is no regular expression: {error}", "--params", "mend it") from None


class ParameterSpace:
    """The parameters that move, as one vector: names, shapes and the order of `named_parameters`.

    Tied tensors count once, under their first name. Frozen parameters (``requires_grad=False``) are never part of it.

    Args:
        model: The network.
        pattern: Regular expression; only parameters one of whose names it matches anywhere. None: all trainable ones.

    Raises:
        UsageError: If the pattern is broken or nothing is left.
    """

    def __init__(self, model: nn.Module, pattern: str | None = None) -> None:
        matches = name_matcher(pattern or "")
        named = dict(model.named_parameters())
        names: dict[int, list[str]] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            names.setdefault(id(parameter), []).append(name)
        chosen = {k: p for k, p in named.items() if p.requires_grad and any(map(matches, names[id(p)]))}
        if not chosen:
            trainable = [k for k, p in named.items() if p.requires_grad]
            raise UsageError(
                f"no trainable parameter is selected by {pattern!r}"
                if pattern
                else "the model has no trainable parameter",
                "--params" if pattern else type(model).__name__,
                f"there is: {', '.join(trainable[:10])}" if trainable else "set requires_grad",
            )
        self.names = tuple(chosen)
        self.tensors = tuple(chosen.values())
        self.shapes = tuple(tuple(p.shape) for p in self.tensors)
        self.sizes = tuple(p.numel() for p in self.tensors)
        self.size = sum(self.sizes)

    def flatten(self, tensors: Sequence[Tensor | None]) -> Tensor:
        """One vector ``(n,)`` from one tensor per parameter; None stands for zeros."""
        return torch.cat(
            [
                p.new_zeros(p.numel()) if t is None else t.detach().reshape(-1)
                for p, t in zip(self.tensors, tensors, strict=True)
            ]
        )

    def split(self, vector: Tensor) -> list[Tensor]:
        """Views of a vector ``(n,)`` in the parameters' shapes."""
        return [v.view(s) for v, s in zip(vector.split(self.sizes), self.shapes, strict=True)]

    def named(self, vector: Tensor) -> dict[str, Tensor]:
        """The parts of a vector ``(n,)`` by parameter name."""
        return dict(zip(self.names, self.split(vector), strict=True))

    def current(self) -> Tensor:
        """A copy of the parameters as one vector ``(n,)``."""
        return self.flatten(self.tensors)

    @torch.no_grad()
    def write(self, vector: Tensor) -> None:
        """Copy a vector ``(n,)`` into the parameters, into their own storage."""
        torch._foreach_copy_(list(self.tensors), self.split(vector))


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put every module into eval mode; give each its own flag back, also after an exception."""
    flags = [(m, m.training) for m in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """Give Python's, NumPy's and torch's global random states back afterwards."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 - the legacy state is what users' code draws from
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002


def seed_everything(*key: int | str) -> None:
    """Seed Python's, NumPy's and torch's global generators from ``key`` (a seed and what it is for)."""
    import hashlib

    number = int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "little")
    random.seed(number)
    np.random.seed(number % 2**32)  # noqa: NPY002
    torch.manual_seed(number % 2**63)


def copied(model: nn.Module) -> nn.Module:
    """A deep copy of a network; also with computed values (old ``weight_norm``), which torch refuses to copy."""
    computed = (
        tensor
        for module in model.modules()
        for value in vars(module).values()
        for tensor in ([value] if isinstance(value, Tensor) else leaves(value))
        if not tensor.is_leaf
    )
    return copy.deepcopy(model, {id(t): t.detach().clone() for t in computed})


def unwrapped(model: nn.Module) -> nn.Module:
    """The plain network inside ``DistributedDataParallel``, ``DataParallel`` and ``torch.compile`` wrappers.

    Through such a wrapper a curvature product is silently that of the local shard, or fails.

    Raises:
        UsageError: If parameters are spread over processes (FSDP, tensor parallelism).
    """
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = model.module
        if not isinstance(inner, nn.Module):
            _refuse_spread(model)
            return model
        model = inner


def _refuse_spread(model: nn.Module) -> None:
    """Refuse parameters of which each process holds a piece: their gradients cannot be differentiated again.

    Through FSDP a second derivative fails deep inside torch (``setStorage``), or its gradients have none.
    """
    for part in (*model.modules(), *model.parameters()):
        for kind in type(part).__mro__:
            sharded = kind.__module__.startswith(("torch.distributed.fsdp", "torch.distributed._composable"))
            if sharded or kind.__name__ == "DTensor":
                name = "FSDP (FullyShardedDataParallel, fully_shard)" if sharded else "DTensor (tensor parallelism)"
                raise UsageError(
                    f"{name} keeps a piece of every parameter in each process, and there is no second derivative "
                    "through it",
                    type(model).__name__,
                    "load the full weights into the plain network; under torchrun the examples are shared instead",
                )
