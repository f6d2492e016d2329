"""Examples: a fixed, ordered, hashable collection of (input, target, domain) from anything a user has.

Inputs are a tensor, a tuple (positional arguments of the model) or a dictionary (keyword arguments).
"""

from __future__ import annotations

import functools
import hashlib
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .errors import DataError, UsageError
from .parameters import preserved_random_state, seed_everything
from .registry import unknown_name

Indices = NDArray[np.int64]


def map_tensors(tree: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Apply ``function`` to every tensor of a tensor, tuple, list or dictionary."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, Mapping):
        return {k: map_tensors(v, function) for k, v in tree.items()}
    if isinstance(tree, (tuple, list)):
        return tuple(map_tensors(v, function) for v in tree)
    return tree


def leaves(tree: Any) -> Iterator[Tensor]:
    """The tensors of a tensor, tuple, list or dictionary, in a fixed order."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, Mapping):
        for key in sorted(tree, key=str):
            yield from leaves(tree[key])
    elif isinstance(tree, (tuple, list)):
        for item in tree:
            yield from leaves(item)


@dataclass(frozen=True)
class Batch:
    """Some examples: ``inputs`` (tree of tensors, examples first), ``targets``, ``domain`` ``(n,)`` int64."""

    inputs: Any
    targets: Tensor
    domain: Tensor

    def __len__(self) -> int:
        return len(self.domain)

    def to(self, device: torch.device, dtype: torch.dtype) -> Batch:
        """Moved to ``device``; floating values cast to ``dtype``, integers left alone."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, dtype if tensor.is_floating_point() else None)

        return Batch(map_tensors(self.inputs, move), map_tensors(self.targets, move), self.domain.to(device))


def forward(model: torch.nn.Module, inputs: Any) -> Tensor:
    """Call ``model`` with a tensor, a tuple of positional or a dictionary of keyword arguments."""
    if isinstance(inputs, Mapping):
        output = model(**inputs)
    elif isinstance(inputs, tuple):
        output = model(*inputs)
    else:
        output = model(inputs)
    if not isinstance(output, Tensor):
        raise DataError(
            f"the model returned a {type(output).__name__}",
            type(model).__name__,
            "wrap it so that it returns one tensor, examples first",
        )
    return output


@dataclass(frozen=True)
class Survey:
    """What one pass over a store tells.

    Attributes:
        digests: SHA-256 of each row's input and target (types, shapes, bytes).
        labels: Integer class of each row ``(n,)``, or None where targets are no classes.
    """

    digests: list[bytes]
    labels: Indices | None

    @classmethod
    def of(cls, pairs: Iterable[tuple[Any, Any]]) -> Survey:
        """Look at every ``(input, target)`` pair once."""
        digests, labels = [], []
        for inputs, raw in pairs:
            hasher = hashlib.sha256()
            target: Any = raw if isinstance(raw, (Mapping, tuple, list)) else torch.as_tensor(raw)
            hasher.update(f"{_keys(inputs)} {_keys(target)}".encode())
            for leaf in (*leaves(inputs), *leaves(target)):
                hasher.update(f"{leaf.dtype}{tuple(leaf.shape)}".encode())
                hasher.update(leaf.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
            digests.append(hasher.digest())
            whole = isinstance(target, Tensor) and target.ndim == 0 and not target.is_floating_point()
            labels.append(int(target) if whole else None)
        known = [label for label in labels if label is not None]
        return cls(digests, np.array(known, dtype=np.int64) if len(known) == len(labels) else None)


def _keys(tree: Any) -> Any:
    """The shape of a tree without its tensors: names and places decide which argument a tensor becomes."""
    if isinstance(tree, Mapping):
        return {str(k): _keys(tree[k]) for k in sorted(tree, key=str)}
    return [_keys(v) for v in tree] if isinstance(tree, (tuple, list)) else "."


class _Store(Protocol):
    def __len__(self) -> int: ...
    @property
    def facts(self) -> Mapping[str, Any]: ...
    def fetch(self, rows: Indices) -> tuple[Any, Tensor]: ...
    @property
    def survey(self) -> Survey: ...


class TensorStore:
    """Examples that lie in memory as tensors of equal length; ``facts`` is what results shall say about them."""

    def __init__(self, inputs: Any, targets: Tensor, facts: Mapping[str, Any] | None = None) -> None:
        self.inputs, self.targets, self.facts = inputs, targets, facts or {}

    def __len__(self) -> int:
        return len(self.targets)

    def fetch(self, rows: Indices) -> tuple[Any, Tensor]:
        """Inputs and targets of ``rows``."""
        index = torch.from_numpy(rows)
        return map_tensors(self.inputs, lambda t: t[index]), self.targets[index]

    @functools.cached_property
    def survey(self) -> Survey:
        """Digests and labels of all rows."""
        return Survey.of(
            (map_tensors(self.inputs, operator.itemgetter(i)), self.targets[i]) for i in range(len(self))
        )


class DatasetStore:
    """Examples read one by one from ``torch.utils.data.Dataset``s standing one after the other.

    A data set may have ``facts``, a mapping of plain values that results shall say about it.
    """

    def __init__(self, datasets: Sequence[Any]) -> None:
        self.datasets = list(datasets)
        self.facts: dict[str, Any] = {}
        for dataset in self.datasets:
            self.facts.update(getattr(dataset, "facts", {}))
        self._starts = np.cumsum([0] + [len(d) for d in self.datasets])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def one(self, row: int) -> Any:
        """The ``(input, target)`` pair of one row."""
        source = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self.datasets[source][row - int(self._starts[source])]

    def frozen(self, row: int) -> Any:
        """The pair of one row with its random augmentation frozen: the same at every call."""
        with preserved_random_state():
            seed_everything("frozen example", row)
            return self.one(row)

    def fetch(self, rows: Indices) -> tuple[Any, Tensor]:
        """Inputs and targets of ``rows``, frozen, collated by torch's own rule."""
        return collate([self.frozen(int(r)) for r in rows])

    @functools.cached_property
    def survey(self) -> Survey:
        """Digests and labels of all rows, from one reading of the data."""
        return Survey.of(self.frozen(i) for i in range(len(self)))


def collate(pairs: Sequence[Any]) -> tuple[Any, Tensor]:
    """Stack ``(input, target)`` pairs by torch's default rule.

    Raises:
        DataError: If the examples are no pairs or do not stack.
    """
    from torch.utils.data import default_collate

    try:
        inputs, targets = default_collate([(x, y) for x, y in pairs])
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"the examples do not form a batch: {error}",
            "the data set",
            "return (input, target) of equal shapes",
        ) from error
    return (tuple(inputs) if isinstance(inputs, list) else inputs), targets


class Examples:
    """An ordered selection of rows of a store, each row with its domain.

    Args:
        store: Where the rows are.
        rows: Selected rows, shape ``(n,)``.
        domain: Domain index of each selected row, shape ``(n,)``.
        domains: Names of all domains, or None if the data has no notion of domains.
    """

    def __init__(self, store: _Store, rows: Indices, domain: Indices, domains: tuple[str, ...] | None) -> None:
        self.store, self.rows, self.domain, self.domains = store, rows, domain, domains

    @classmethod
    def of(cls, data: Any, where: str = "the data") -> Examples:
        """Take a pair of tensors, a ``Dataset``, or a mapping from domain names to either.

        Raises:
            DataError: If it is something else, a domain is empty, or lengths differ.
        """
        if isinstance(data, Examples):
            return data
        if isinstance(data, Mapping):
            if not data:
                raise DataError("there is no domain", where, "return at least one")
            stores = [_store(d, f"{where}, domain {name!r}") for name, d in data.items()]
            names: tuple[str, ...] | None = tuple(str(k) for k in data)
        else:
            stores, names = [_store(data, where)], None
        sizes = [len(s) for s in stores]
        domain = np.repeat(np.arange(len(stores)), sizes)
        return cls(_joined(stores, where), np.arange(sum(sizes)), domain, names)

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

    def batches(self, size: int) -> Iterator[Batch]:
        """All examples in order, in batches of ``size``; the last one may be smaller."""
        for start in range(0, len(self), size):
            yield self.batch(np.arange(start, min(start + size, len(self))))

    def in_memory(self) -> Examples:
        """The same examples as tensors, read once (so that random augmentation is frozen)."""
        if isinstance(self.store, TensorStore):
            return self
        inputs, targets = self.store.fetch(self.rows)
        store = TensorStore(inputs, targets, self.facts)
        return Examples(store, np.arange(len(self)), self.domain, self.domains)

    def classes(self) -> Indices | None:
        """Integer class of each example ``(n,)``, or None where targets are no classes."""
        labels = self.store.survey.labels
        return None if labels is None else labels[self.rows]

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
            raise UsageError(f"{count} examples were asked for, there are {len(self)}", "--examples", "ask for fewer")
        return self.select(np.sort(self.stratified_order(seed)[:count]))

    def fingerprint(self) -> str:
        """SHA-256 of the content: every input, target and domain name, in order, at the stored precision."""
        digests = self.store.survey.digests
        total = hashlib.sha256(repr([self.domain_names[i] for i in self.domain]).encode())
        for row in self.rows:
            total.update(digests[row])
        return total.hexdigest()


def _store(data: Any, where: str) -> TensorStore | DatasetStore:
    if isinstance(data, torch.utils.data.TensorDataset) and len(data.tensors) == 2:
        store: TensorStore | DatasetStore = TensorStore(*data.tensors, getattr(data, "facts", None))
    elif isinstance(data, (tuple, list)) and len(data) == 2 and isinstance(data[1], Tensor):
        inputs, targets = data
        sizes = {len(t) for t in leaves(inputs)}
        if sizes != {len(targets)}:
            raise DataError(f"inputs have {sorted(sizes)} examples, targets {len(targets)}", where, "make them equal")
        inputs = tuple(inputs) if isinstance(inputs, list) else inputs
        store = TensorStore(map_tensors(inputs, Tensor.detach), targets.detach())
    elif hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, (str, tuple, list)):
        store = DatasetStore([data])
    else:
        raise DataError(
            f"a data set cannot be a {type(data).__name__}",
            where,
            "return (inputs, targets) or a torch Dataset",
        )
    if len(store) == 0:
        raise DataError("there is no example", where, "a data set and each of its domains needs at least one")
    return store


def _joined(stores: Sequence[TensorStore | DatasetStore], where: str) -> _Store:
    if all(isinstance(s, TensorStore) for s in stores):
        tensors = [s for s in stores if isinstance(s, TensorStore)]
        if len(tensors) == 1:
            return tensors[0]
        try:
            inputs, targets = _concatenate([s.inputs for s in tensors]), torch.cat([s.targets for s in tensors])
            return TensorStore(inputs, targets, {k: v for s in tensors for k, v in s.facts.items()})
        except (RuntimeError, KeyError, TypeError) as error:
            raise DataError(f"the domains do not fit together: {error}", where, "use equal shapes") from error
    if all(isinstance(s, DatasetStore) for s in stores):
        return DatasetStore([d for s in stores if isinstance(s, DatasetStore) for d in s.datasets])
    raise DataError("some domains are tensors and some are Datasets", where, "use one kind")


def _concatenate(trees: Sequence[Any]) -> Any:
    first = trees[0]
    if isinstance(first, Mapping):
        return {k: _concatenate([t[k] for t in trees]) for k in first}
    if isinstance(first, tuple):
        return tuple(_concatenate([t[i] for t in trees]) for i in range(len(first)))
    return torch.cat(list(trees))
