"""Examples: a fixed, ordered, hashable collection of (input, target, domain) from anything a user has."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..base.errors import DataError, UsageError
from ..base.names import unknown_name
from ..numerics.trees import leaves, map_tensors, take_rows
from ..runtime.devices import sent, sums_on, type_at
from .digests import Indices
from .ready import Ready, ReadyStore, joined_ready, read_ready
from .sources import is_table, store_of
from .stores import Store, TensorStore, joined

__all__ = ["Batch", "Examples", "Indices"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """Some examples: ``inputs`` and ``targets`` (trees of tensors, examples first), ``domain`` ``(n,)`` int64.

    Where an objective is given ready-made batches, each of these is an example, ``inputs`` are `Ready`, and the
    targets are how many terms each counts. An ``idle`` batch adds nothing to any sum: it lets a process keep step
    with others that have one more.
    """

    inputs: Any
    targets: Any
    domain: Tensor
    idle: bool = False

    def __len__(self) -> int:
        return len(self.domain)

    def to(self, device: torch.device, dtype: torch.dtype) -> Batch:
        """Moved to ``device``; floating and complex values at the precision ``dtype``, integers left alone."""

        def move(tensor: Tensor) -> Tensor:
            return sent(tensor, device, type_at(tensor, dtype))

        ready = isinstance(self.inputs, Ready)
        inputs = self.inputs.to(device, dtype) if ready else map_tensors(self.inputs, move)
        # How many terms a batch counts is no value of the network's: it is exact, and stays so.
        targets = map_tensors(self.targets, lambda t: sent(t, device, t.dtype) if ready else move(t))
        return Batch(inputs, targets, sent(self.domain, device, self.domain.dtype))

    def rows(self, positions: Indices) -> Batch:
        """Some of its examples."""
        index = torch.from_numpy(positions).to(self.domain.device)
        inputs = self.inputs.rows(index) if isinstance(self.inputs, Ready) else take_rows(self.inputs, index)
        return Batch(inputs, take_rows(self.targets, index), self.domain[index])

    def counts(self, n_domains: int) -> Tensor:
        """Examples of each domain, float64, shape ``(n_domains,)``; counted once for all points of a surface."""
        known: dict[int, Tensor] = self.__dict__.setdefault("_counts", {})
        if n_domains not in known:
            # Counted by adding: bincount asks the device how long its answer will be, and so waits for it.
            own = self.domain.to(sums_on(self.domain.device))
            zeros = torch.zeros(n_domains, dtype=torch.float64, device=own.device)
            known[n_domains] = zeros.index_add_(0, own, torch.ones_like(own, dtype=torch.float64))
        return known[n_domains]

    @property
    def nbytes(self) -> int:
        """Memory of all its tensors."""
        own = self.inputs.nbytes if isinstance(self.inputs, Ready) else 0
        return own + sum(t.nbytes for t in (*leaves(self.inputs), *leaves(self.targets)))


class Examples:
    """An ordered selection of rows of a store, each row with its domain.

    Args:
        store: Where the rows are.
        rows: Selected rows, shape ``(n,)``.
        domain: Domain index of each selected row, shape ``(n,)``.
        domains: Names of all domains, or None if the data has no notion of domains.

    Example:
        >>> import torch
        >>> from landscape import Examples
        >>> art, photo = (torch.zeros(3, 4), torch.tensor([0, 1, 0])), (torch.ones(2, 4), torch.tensor([1, 1]))
        >>> examples = Examples.of({"art": art, "photo": photo})
        >>> len(examples), examples.domains
        (5, ('art', 'photo'))
    """

    def __init__(self, store: Store, rows: Indices, domain: Indices, domains: tuple[str, ...] | None) -> None:
        self.store, self.rows, self.domain, self.domains = store, rows, domain, domains

    @classmethod
    def of(cls, data: Any, where: str = "the data", first: int | None = None) -> Examples:
        """Take a data set (see `store_of` for what can be one), or a mapping from domain names to data sets.

        Args:
            data: What to take.
            where: What it is called in messages.
            first: How many examples of each stream (``IterableDataset``, generator) to read, at most; they are
                read once.

        Raises:
            DataError: If it is something else, a domain is empty or has no name of its own, or lengths differ.
            UsageError: If it is a stream and ``first`` is not given.
        """
        if isinstance(data, Examples):
            return data
        if type(data).__name__ in ("DatasetDict", "IterableDatasetDict"):
            raise DataError("this holds splits, not one data set", where, f"take one of: {', '.join(data)}")
        if isinstance(data, Mapping) and not is_table(data):
            if not data:
                raise DataError("there is no domain", where, "return at least one")
            names: tuple[str, ...] | None = distinct_names("domain", data, where)
            stores = [store_of(d, f"{where}, domain {name!r}", first) for name, d in data.items()]
        else:
            stores, names = [store_of(data, where, first)], None
        sizes = [len(s) for s in stores]
        domain = np.repeat(np.arange(len(stores)), sizes)
        return cls(joined(stores, where), np.arange(sum(sizes)), domain, names)

    @classmethod
    def of_batches(cls, data: object, where: str = "the data", first: int | None = None) -> Examples:
        """Take ready-made batches for an objective: a loader or a sequence of anything, or a mapping from domains.

        Args:
            data: What to take; each batch is one example here, and is of one domain.
            where: What it is called in messages.
            first: How many batches to read of what can be gone through only once.

        Raises:
            DataError: If it gives no batches.
            UsageError: If it may have no end and ``first`` is not given.

        Example:
            >>> import torch
            >>> from landscape import Examples
            >>> len(Examples.of_batches([{"x": torch.ones(3, 2)}, {"x": torch.ones(5, 2)}]))
            2
        """
        if isinstance(data, Examples):
            return data
        if isinstance(data, Mapping):
            if not data:
                raise DataError("there is no domain", where, "return at least one")
            names: tuple[str, ...] | None = distinct_names("domain", data, where)
            stores = [read_ready(d, f"{where}, domain {name!r}", first) for name, d in data.items()]
        else:
            stores, names = [read_ready(data, where, first)], None
        sizes = [len(s) for s in stores]
        return cls(joined_ready(stores), np.arange(sum(sizes)), np.repeat(np.arange(len(stores)), sizes), names)

    @property
    def ready_made(self) -> bool:
        """Whether its examples are ready-made batches for an objective."""
        return isinstance(self.store, ReadyStore)

    @property
    def all_counted(self) -> bool:
        """Whether it is known how many terms each of its ready-made batches counts."""
        return isinstance(self.store, ReadyStore) and bool(np.isfinite(self.store.counts[self.rows]).all())

    def counted(self, counts: object) -> Examples:
        """The same ready-made batches, of which it is known how many terms each counts, ``(n,)``."""
        assert isinstance(self.store, ReadyStore)
        return Examples(self.store.counted(self.rows, counts), self.rows, self.domain, self.domains)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the source says about its examples: ``classes`` (names), ``skipped_images``, ..."""
        return self.store.facts

    @property
    def domain_names(self) -> tuple[str, ...]:
        """Names of the domains; ``("all",)`` where the data has none."""
        return self.domains or ("all",)

    def select(self, positions: Indices) -> Examples:
        """The examples at ``positions``, in that order."""
        return Examples(self.store, self.rows[positions], self.domain[positions], self.domains)

    def of_domains(self, names: Sequence[str]) -> Examples:
        """Only the examples of the named domains; domain indices stay those of the whole.

        Raises:
            UsageError: If a name is unknown.
        """
        wanted = [self.domain_index(n) for n in names]
        return self.select(np.flatnonzero(np.isin(self.domain, wanted)))

    def domain_index(self, name: str) -> int:
        """Index of a domain.

        Raises:
            UsageError: If the name is unknown.
        """
        if name not in self.domain_names:
            raise unknown_name("domain", name, self.domain_names)
        return self.domain_names.index(name)

    def batch(self, positions: Indices) -> Batch:
        """Inputs, targets and domains of the examples at ``positions``."""
        inputs, targets = self.store.fetch(self.rows[positions])
        return Batch(inputs, targets, torch.from_numpy(self.domain[positions]))

    def batches(self, size: int, part: slice | None = None, *, within_domains: bool = False) -> Iterator[Batch]:
        """All examples in order (or a stretch of them), in batches of ``size``; the last one may be smaller.

        Args:
            size: Examples in a batch.
            part: The stretch.
            within_domains: End a batch where a domain ends.
        """
        for start, stop in self.cuts(size, part, within_domains=within_domains):
            yield self.batch(np.arange(start, stop))

    def cuts(
        self, size: int, part: slice | None = None, *, within_domains: bool = False
    ) -> Iterator[tuple[int, int]]:
        """Where the batches of `batches` begin and end."""
        first, last, _ = (part or slice(None)).indices(len(self))
        inner = np.flatnonzero(np.diff(self.domain[first:last])) + first + 1 if within_domains else ()
        edges = [first, *(int(i) for i in inner), last]
        for begin, end in pairwise(edges):
            for start in range(begin, end, size):
                yield start, min(start + size, end)

    def in_memory(self, limit: int | None = None) -> Examples:
        """The same examples as tensors, read once (so that random augmentation is frozen).

        Args:
            limit: Bytes; more than that stays where it is and is read, frozen, each time it is asked for.
        """
        if isinstance(self.store, (TensorStore, ReadyStore)):
            return self
        if limit is not None and len(self) * self.batch(np.arange(1)).nbytes > limit:
            if self.facts.get("unsteady"):
                raise DataError(
                    f"{len(self)} examples exceed {limit / 1e9:.1f} GB, and every reading of one gives other values",
                    "the data set",
                    "let it draw from torch's, numpy's or Python's global generator, or ask for fewer `examples=`",
                )
            log.warning("%d examples exceed %.1f GB and are read in every pass", len(self), limit / 1e9)
            return self
        inputs, targets = self.store.fetch(self.rows)
        store = TensorStore(inputs, targets, self.facts, self.store.places[self.rows])
        return Examples(store, np.arange(len(self)), self.domain, self.domains)

    def classes(self) -> Indices | None:
        """Integer class of each example ``(n,)``, or None where targets are no classes."""
        labels = self.store.labels
        return None if labels is None else labels[self.rows]

    def flaws(self) -> dict[str, Indices]:
        """Positions of the examples that hold NaN or infinite values, by what is wrong; nothing if all is finite."""
        found = {what: np.flatnonzero(np.isin(self.rows, rows)) for what, rows in self.store.flaws.items()}
        return {what: positions for what, positions in found.items() if len(positions)}

    def name_of(self, position: int) -> str:
        """How the user would find one example: its place in their data set, and its domain."""
        domain = f" of domain {self.domains[self.domain[position]]!r}" if self.domains else ""
        kind = "batch" if self.ready_made else "example"
        return f"{kind} {self.store.places[self.rows[position]]}{domain}"

    def stratified_order(self, seed: int) -> Indices:
        """A seeded order in which every stretch is balanced over classes and domains.

        Within each stratum (class and domain, or domain alone where targets are no classes) the examples are
        shuffled and spread evenly over [0, 1); sorting by that place interleaves the strata. So the first N
        are a stratified subset, and consecutive blocks of m are a stratified partition, nested for nested m.

        Returns:
            A permutation of ``0..n-1``.
        """
        generator = np.random.default_rng([seed, 0x0DE5])
        classes = self.classes()
        strata = self.domain if classes is None else self.domain * (int(classes.max(initial=0)) + 1) + classes
        place = np.empty(len(self))
        for stratum in np.unique(strata):
            members = np.flatnonzero(strata == stratum)
            place[generator.permutation(members)] = (np.arange(len(members)) + generator.random()) / len(members)
        return np.argsort(place, kind="stable")

    def subset(self, count: int, seed: int) -> Examples:
        """A seeded, stratified subset of ``count`` examples, in their original order.

        Raises:
            UsageError: If there are fewer.
        """
        if count > len(self):
            raise UsageError(
                f"{count} examples were asked for, there are {len(self)}", "`examples=`", "ask for fewer"
            )
        return self.select(np.sort(self.stratified_order(seed)[:count]))

    def fingerprint(self) -> str:
        """SHA-256 of the content: every input, target and domain name, in order, at the stored precision."""
        digests = self.store.digests
        total = hashlib.sha256(repr([self.domain_names[i] for i in self.domain]).encode())
        for row in self.rows:
            total.update(digests[row])
        return total.hexdigest()


def distinct_names(kind: str, keys: Iterable[object], where: str) -> tuple[str, ...]:
    """The keys of a mapping as texts.

    Args:
        kind: What they name, for messages.
        keys: Texts or numbers.
        where: For messages.

    Raises:
        DataError: If one is empty, or two are the same text (1 and "1").
    """
    names: list[str] = []
    for key in keys:
        name = str(key)
        if not name.strip():
            raise DataError(f"a {kind} has an empty name", where, "name it")
        if name in names:
            raise DataError(f"two {kind}s are called {name!r}", where, "give each a name of its own, as text")
        names.append(name)
    return tuple(names)
