"""The parameters of an assembled network as one vector that is spread over processes, and random vectors like it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ..numerics.draws import Draws
from .pieces import Piece
from .vectors import Layout, Sharded

_CHUNK = 1 << 16  # of random numbers that are drawn at a time; a multiple of 16, in which torch draws


class Spread:
    """Where each parameter's piece stands in a process's part of a vector.

    A whole vector has the parameters in their order. A process's part has its pieces in their order, those that count
    as its own first.

    Args:
        names: Of the parameters, in order.
        pieces: Their pieces.
    """

    def __init__(self, names: Sequence[str], pieces: Sequence[Piece]) -> None:
        self.pieces = tuple(pieces)
        self.sizes = [int(np.prod(p.local_shape, dtype=np.int64)) for p in pieces]
        self.order = sorted(range(len(pieces)), key=lambda i: not pieces[i].owned)
        whole = [int(np.prod(p.shape, dtype=np.int64)) for p in pieces]
        self.starts = [int(s) for s in np.cumsum([0, *whole])[:-1]]
        owned = sum(s for s, p in zip(self.sizes, pieces, strict=True) if p.owned)
        self.layout = Layout(sum(whole), sum(self.sizes), owned, tuple(names))

    def flatten(self, locals_: Sequence[Tensor]) -> Sharded:
        """One vector from this process's pieces."""
        return Sharded(torch.cat([locals_[i].reshape(-1) for i in self.order]), self.layout)

    def split(self, vector: Tensor) -> list[Tensor]:
        """Views of this process's pieces of a vector, in their local shapes."""
        if not isinstance(vector, Sharded):
            raise TypeError("a plain vector where one is spread over processes")
        parts = vector.own.split([self.sizes[i] for i in self.order])
        found: list[Tensor] = [vector.own] * len(parts)
        for i, part in zip(self.order, parts, strict=True):
            found[i] = part.view(self.pieces[i].local_shape)
        return found

    def positions(self) -> Iterator[tuple[int, Tensor]]:
        """For each piece where it begins in this process's part, and the places of its entries in a whole vector."""
        begins = dict(zip(self.order, np.cumsum([0, *(self.sizes[i] for i in self.order)]).tolist(), strict=False))
        for i, piece in enumerate(self.pieces):
            yield begins[i], piece.whole_positions() + self.starts[i]


class SpreadDraws(Draws):
    """The random vectors that one process would draw, of which each keeps its pieces: drawn by all, in stretches."""

    def __init__(self, spread: Spread, device: torch.device | str = "cpu") -> None:
        super().__init__(spread.layout.size, device)
        self.spread = spread

    def on(self, device: torch.device | str) -> Draws:
        """The same on another device."""
        return SpreadDraws(self.spread, device)

    def normal(self, generator: torch.Generator) -> Tensor:
        """See `Draws`."""

        def stretch(count: int) -> Tensor:
            return torch.randn(count, generator=generator, dtype=torch.float64)

        return self._kept(stretch)

    def uniform(self, generator: torch.Generator) -> Tensor:
        """See `Draws`."""

        def stretch(count: int) -> Tensor:
            return torch.rand(count, generator=generator, dtype=torch.float64) * 2 - 1

        return self._kept(stretch)

    def signs(self, seed: int, index: int) -> Tensor:
        """See `Draws`."""
        generator = np.random.default_rng([seed, index])

        def stretch(count: int) -> Tensor:
            return torch.from_numpy(generator.integers(0, 2, count, dtype=np.int8)).double() * 2 - 1

        return self._kept(stretch)

    def empty(self, rows: int) -> Tensor:
        """See `Draws`."""
        layout = self.spread.layout
        return Sharded(torch.empty((rows, layout.local), dtype=torch.float64, device=self.device), layout)

    def unit(self, index: int) -> Tensor:
        """See `Draws`."""
        found = self.empty(1)[0].zero_()
        assert isinstance(found, Sharded)
        for begin, places in self.spread.positions():
            at = int(torch.searchsorted(places, index))
            if at < len(places) and int(places[at]) == index:
                found.own[begin + at] = 1
        return found

    def _kept(self, stretch: object) -> Sharded:
        layout = self.spread.layout
        own = torch.empty(layout.local, dtype=torch.float64)
        places = list(self.spread.positions())
        for start, stop in _stretches(layout.size):
            drawn: Tensor = stretch(stop - start)  # type: ignore[operator]
            for begin, where in places:
                first, last = torch.searchsorted(where, torch.tensor([start, stop])).tolist()
                if last > first:
                    own[begin + first : begin + last] = drawn[where[first:last] - start]
        return Sharded(own.to(self.device), layout)


def _stretches(n: int) -> Iterator[tuple[int, int]]:
    """Cuts at multiples of 16, and no last stretch of fewer than 16: the numbers are then those of one draw."""
    start = 0
    while start < n:
        stop = start + _CHUNK if n - (start + _CHUNK) >= 16 else n
        yield start, stop
        start = stop
