"""Which examples each step sees: a pure function of (seed, step), so that resuming needs no sampler state."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from ..base.stop_signals import stop_signals
from ..data.digests import Indices
from ..data.examples import Batch, Examples
from ..data.stores import DatasetStore, collate
from ..runtime.distributed import shard
from ..runtime.random_state import seed_everything


class BatchOrder:
    """Shuffled batches without replacement, reshuffled every epoch; the last batch of an epoch may be smaller.

    Args:
        n: Number of examples.
        size: Examples per batch.
        seed: Seed of the order.
    """

    def __init__(self, n: int, size: int, seed: int) -> None:
        self.n, self.size, self.seed = n, min(size, n), seed
        self.per_epoch = -(-n // self.size)
        self._epoch, self._order = -1, np.arange(0)

    def positions(self, step: int) -> Indices:
        """Positions of the examples of ``step`` (counted from 0)."""
        epoch, place = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng([self.seed, 0xBA7C4, epoch]).permutation(self.n)
        return self._order[place * self.size : (place + 1) * self.size]


class BalancedOrder:
    """Batches with the same number of examples of every domain, each domain reshuffled whenever it runs out.

    The share of a domain is the batch size divided by the number of domains; a remainder goes round.

    Args:
        domain: Domain index of every example, shape ``(n,)``.
        size: Examples per batch.
        seed: Seed of the order.
    """

    def __init__(self, domain: Indices, size: int, seed: int) -> None:
        self.n, self.size, self.seed = len(domain), min(size, len(domain)), seed
        self.per_epoch = -(-self.n // self.size)
        self._members = [np.flatnonzero(domain == i) for i in np.unique(domain)]

    def positions(self, step: int) -> Indices:
        """Positions of the examples of ``step`` (counted from 0), domain by domain."""
        domains = len(self._members)
        chosen = []
        for i, members in enumerate(self._members):
            # The i-th domain's stream stands where the shares of all earlier steps have brought it.
            first, last = (-(-(s * self.size - i) // domains) for s in (step, step + 1))
            chosen.append(self._stream(i, members, max(first, 0), max(last, 0)))
        return np.concatenate(chosen)

    def _stream(self, i: int, members: Indices, first: int, last: int) -> Indices:
        pieces = []
        while first < last:
            lap, place = divmod(first, len(members))
            order = np.random.default_rng([self.seed, 0xBA1A, i, lap]).permutation(members)
            pieces.append(order[place : place + last - first])
            first += len(pieces[-1])
        return np.concatenate(pieces) if pieces else members[:0]


class RankShard:
    """Of every batch of an order the stretch of this process; the whole batch where nothing is left for it.

    Args:
        order: The order.
        unit: From the size of a batch to the examples that stay together.
    """

    def __init__(self, order: BatchOrder | BalancedOrder, unit: Callable[[int], int]) -> None:
        self.order, self.unit, self.seed = order, unit, order.seed

    def stretch(self, n: int) -> slice:
        """What of a batch of ``n`` is this process's; empty where nothing is."""
        return shard(n, self.unit(n))

    def positions(self, step: int) -> Indices:
        """Positions of the examples of ``step`` (counted from 0)."""
        whole = self.order.positions(step)
        own = whole[self.stretch(len(whole))]
        return own if len(own) else whole


class _Rows(torch.utils.data.Dataset[Any]):
    """Single examples whose own randomness (augmentation) is a function of (seed, step, row)."""

    def __init__(self, store: DatasetStore, seed: int) -> None:
        self.store, self.seed = store, seed

    def __getitem__(self, key: tuple[int, int]) -> Any:
        step, row = key
        seed_everything(self.seed, "example", step, row)
        return self.store.one(row)


def _ignore_signals(_: int) -> None:
    """Workers leave signals to the main process, which saves and stops them; torch's own handler would not."""
    for number in stop_signals():
        signal.signal(number, signal.SIG_IGN)


def batches(
    examples: Examples, order: BatchOrder | BalancedOrder | RankShard, first: int, last: int, *, workers: int
) -> Iterator[Batch]:
    """The batches of steps ``first`` to ``last - 1``, on the CPU.

    Args:
        examples: What is trained on.
        order: Which positions each step takes.
        first: First step.
        last: One past the last step.
        workers: Reading processes, for examples that come from a ``Dataset``.
    """
    if not isinstance(examples.store, DatasetStore):
        for step in range(first, last):
            yield examples.batch(order.positions(step))
        return
    plan = [order.positions(step) for step in range(first, last)]
    keys = [
        [(step, int(examples.rows[p])) for p in rows] for step, rows in zip(range(first, last), plan, strict=True)
    ]
    loader: Any = torch.utils.data.DataLoader(
        _Rows(examples.store, order.seed),
        batch_sampler=keys,
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=_ignore_signals,
    )
    for rows, (inputs, targets) in zip(plan, loader, strict=True):
        yield Batch(inputs, targets, torch.from_numpy(examples.domain[rows]))
