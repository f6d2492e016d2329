"""Flat views of a network's parameters, and everything about leaving a network as it was."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from .errors import UsageError
from .turns import one_at_a_time


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

    A complex weight is two real ones: the vector is real, and a complex parameter stands in it, in `shapes`, in
    `split` and in everything that is stored, as ``torch.view_as_real`` shows it, with a last dimension of 2. Torch's
    gradient of a real loss, ∂L/∂Re + i ∂L/∂Im, seen so is the gradient of those real numbers.

    Attributes:
        names: Names of the parameters.
        tensors: The parameters themselves, for autograd; complex ones are complex here.
        shapes: Of their real parts.
        sizes: How many real numbers each has.
        dimensions: Of the parameters themselves: a complex bias has one, though its real part has two.
        size: Length of the vector.

    Args:
        model: The network.
        pattern: Regular expression; only parameters one of whose names it matches anywhere. None: all trainable ones.

    Raises:
        UsageError: If the pattern is broken or nothing is left, or parameters share memory untied.
    """

    def __init__(self, model: nn.Module, pattern: str | None = None) -> None:
        matches = name_matcher(pattern or "")
        refuse_shared_memory(model)
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
        self.dimensions = tuple(p.ndim for p in self.tensors)
        self.shapes = tuple(tuple(p.shape) for p in self.views)
        self.sizes = tuple(p.numel() for p in self.views)
        self.size = sum(self.sizes)

    @property
    def views(self) -> list[Tensor]:
        """The parameters as real tensors to be read and written in place; a real one is itself."""
        return [torch.view_as_real(p.detach()) if p.is_complex() else p for p in self.tensors]

    def flatten(self, tensors: Sequence[Tensor | None]) -> Tensor:
        """One vector ``(n,)`` from one tensor per parameter, complex or its real part; None stands for zeros."""
        return torch.cat(
            [
                v.new_zeros(v.numel()) if t is None else as_real(t.detach()).reshape(-1)
                for v, t in zip(self.views, tensors, strict=True)
            ]
        )

    def split(self, vector: Tensor) -> list[Tensor]:
        """Views of a vector ``(n,)`` in the shapes of the parameters' real parts."""
        return [v.view(s) for v, s in zip(vector.split(self.sizes), self.shapes, strict=True)]

    def own(self, vector: Tensor) -> list[Tensor]:
        """The parts of a vector ``(n,)`` in the parameters' own shapes and kinds, as a network can take them.

        ``torch.view_as_complex`` asks for pairs that begin at an even place of memory, which a view of a vector does
        not promise: where one does not, also in a row of several vectors, parts that can be pairs are copies.
        Differentiable, also by ``torch.func``.
        """
        parts: list[Tensor] = []
        start = vector.storage_offset()
        for part, parameter in zip(self.split(vector), self.tensors, strict=True):
            if parameter.is_complex():
                parts.append(torch.complex(part[..., 0], part[..., 1]))
            elif part.numel() % 2 == 0 and (start % 2 or self.size % 2):
                parts.append(part.clone(memory_format=torch.contiguous_format))
            else:
                parts.append(part)
            start += part.numel()
        return parts

    def named(self, vector: Tensor) -> dict[str, Tensor]:
        """The parts of a vector ``(n,)`` by parameter name."""
        return dict(zip(self.names, self.split(vector), strict=True))

    def current(self) -> Tensor:
        """A copy of the parameters as one vector ``(n,)``."""
        return self.flatten(self.tensors)

    @torch.no_grad()
    def write(self, vector: Tensor) -> None:
        """Copy a vector ``(n,)`` into the parameters, into their own storage."""
        torch._foreach_copy_(self.views, self.split(vector))


def as_real(tensor: Tensor) -> Tensor:
    """A complex tensor as pairs of real numbers, ``(..., 2)``, differentiably; a real one as it is."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def continuous(tensor: Tensor) -> bool:
    """Whether a tensor holds floating or complex numbers, which have derivatives; not whole ones."""
    return tensor.is_floating_point() or tensor.is_complex()


def refuse_shared_memory(model: nn.Module) -> None:
    """Refuse parameters that lie in each other's memory without being one tied tensor, or are not what it holds.

    A copy has memory of its own for each, so that what moves together in the network would move apart in it.

    Raises:
        UsageError: Naming them.
    """
    places: list[tuple[int, int, str]] = []
    for name, parameter in model.named_parameters():
        if nn.parameter.is_lazy(parameter) or parameter.is_meta or not parameter.numel():
            continue
        if parameter.is_conj() or parameter.is_neg():
            fix = "give it memory of its own (.resolve_conj().resolve_neg()), and conjugate in forward"
            raise UsageError("it is a conjugate or negative view of other memory", f"parameter {name}", fix)
        start = parameter.data_ptr()
        size = parameter.nbytes if parameter.is_contiguous() else 1  # strided ones may lie between each other
        places.append((start, start + size, name))
    places.sort()
    for (_, end, first), (start, _, second) in pairwise(places):
        if start < end:
            fix = "use one Parameter under both names, and take .conj(), .real or a view of it in forward"
            raise UsageError(f"it lies in the memory of {first}, but is not tied to it", f"parameter {second}", fix)


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
    """Give Python's, NumPy's and torch's global random states back afterwards; one thread at a time."""
    with one_at_a_time(), _random_state_afterwards():
        yield


@contextmanager
def _random_state_afterwards() -> Iterator[None]:
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
