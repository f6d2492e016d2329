"""Flat views of a network's parameters, and everything about leaving a network as it was."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..base.errors import UsageError
from ..base.names import name_matcher
from ..numerics.draws import Draws
from ..numerics.tensors import as_real
from ..runtime.shared_memory import refuse_shared_memory
from ..sharding.assembly import pieces_of
from ..sharding.parts import Part, block
from ..sharding.space import Spread, SpreadDraws


class ParameterSpace:
    """The parameters that move, as one vector: names, shapes and the order of `named_parameters`.

    Tied tensors count once, under their first name. Frozen parameters (``requires_grad=False``) are never part of it.

    A complex weight is two real ones: the vector is real, and a complex parameter stands in it, in `shapes`, in
    `split` and in everything that is stored, as ``torch.view_as_real`` shows it, with a last dimension of 2. Torch's
    gradient of a real loss, ∂L/∂Re + i ∂L/∂Im, seen so is the gradient of those real numbers.

    Where processes hold pieces of the parameters, vectors are `landscape.sharding.vectors.Sharded` and tensors by
    parameter `landscape.sharding.parts.Part` s, except `tensors` and what `own` gives: this process's pieces, for
    autograd.

    Attributes:
        names: Names of the parameters.
        tensors: The parameters themselves, for autograd; complex ones are complex here.
        shapes: Of their real parts.
        sizes: How many real numbers each has.
        dimensions: Of the parameters themselves: a complex bias has one, though its real part has two.
        size: Length of the vector.
        spread: How it is spread over processes; None where each holds all of it.

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
                "`params=`" if pattern else type(model).__name__,
                f"there is: {', '.join(trainable[:10])}" if trainable else "set requires_grad",
            )
        self.names = tuple(chosen)
        self.tensors = tuple(chosen.values())
        pieces = pieces_of(model)
        if pieces and (apart := [n for n in chosen if n not in pieces]):
            fix = "give a loss without parameters, or choose `params=` of the network"
            raise UsageError("a parameter beside a sharded model", apart[0], fix)
        self.spread = Spread(self.names, [pieces[n] for n in self.names]) if pieces else None
        self.dimensions = tuple(p.ndim for p in self.tensors)
        self.shapes = tuple(tuple(p.shape) for p in self.views)  # of pieces those of the whole parameters
        self.sizes = tuple(p.numel() for p in self.views)
        self.size = sum(self.sizes)

    @property
    def views(self) -> list[Tensor]:
        """The parameters as real tensors to be read and written in place; a real one is itself."""
        if self.spread is not None:
            return self.whole_from_own([p.detach() for p in self.tensors])
        return [torch.view_as_real(p.detach()) if p.is_complex() else p for p in self.tensors]

    def flatten(self, tensors: Sequence[Tensor | None]) -> Tensor:
        """One vector ``(n,)`` from one tensor per parameter, complex or its real part; None stands for zeros."""
        if self.spread is not None:
            own = [None if t is None else block(t) for t in tensors]
            pairs = zip(own, self.tensors, strict=True)
            return self.spread.flatten([(torch.zeros_like(v) if t is None else t).detach() for t, v in pairs])
        return torch.cat(
            [
                v.new_zeros(v.numel()) if t is None else as_real(t.detach()).reshape(-1)
                for v, t in zip(self.views, tensors, strict=True)
            ]
        )

    def split(self, vector: Tensor) -> list[Tensor]:
        """Views of a vector ``(n,)`` in the shapes of the parameters' real parts."""
        if self.spread is not None:
            return self.whole_from_own(self.spread.split(vector))
        return [v.view(s) for v, s in zip(vector.split(self.sizes), self.shapes, strict=True)]

    def own(self, vector: Tensor) -> list[Tensor]:
        """The parts of a vector ``(n,)`` in the parameters' own shapes and kinds, as a network can take them.

        ``torch.view_as_complex`` asks for pairs that begin at an even place of memory, which a view of a vector does
        not promise: where one does not, also in a row of several vectors, parts that can be pairs are copies.
        Differentiable, also by ``torch.func``.
        """
        if self.spread is not None:
            return self.spread.split(vector)
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
        torch._foreach_copy_(self.own_views, self.own(vector) if self.spread is not None else self.split(vector))

    @property
    def own_views(self) -> list[Tensor]:
        """As `views`; of pieces the pieces themselves."""
        return [p.detach() for p in self.tensors] if self.spread is not None else self.views

    def whole_from_own(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Tensors by parameter, seen as whole ones where processes hold pieces of them."""
        if self.spread is None:
            return list(parts)
        return [Part(part, piece) for piece, part in zip(self.spread.pieces, parts, strict=True)]

    def draws(self, device: torch.device | str = "cpu") -> Draws:
        """Random vectors ``(n,)``; the same numbers however many processes there are."""
        return Draws(self.size, device) if self.spread is None else SpreadDraws(self.spread, device)
