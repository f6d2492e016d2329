"""Where examples are: rows that can be fetched, out of tensors in memory or out of a ``Dataset``, one by one."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..base.errors import DataError, LandscapeError, is_the_machine
from ..numerics.trees import concatenated, map_tensors, row_count, stacked
from ..runtime.random_state import preserved_random_state, seed_everything
from .digests import Indices, Survey, digests_of, flaws_of, labels_of
from .reading import pair, pair_of


class Store(Protocol):
    """Rows of inputs and targets."""

    def __len__(self) -> int: ...
    @property
    def facts(self) -> Mapping[str, Any]:
        """What results shall say about the examples."""

    @property
    def places(self) -> Indices:
        """Where each row stands in the user's own data set (of its domain), for messages, ``(n,)``."""

    @property
    def digests(self) -> list[bytes]:
        """SHA-256 of each row."""

    @property
    def labels(self) -> Indices | None:
        """Integer class of each row ``(n,)``, or None where targets are no classes."""

    @property
    def flaws(self) -> Mapping[str, Indices]:
        """Rows that hold NaN or infinite values, by what is wrong with them."""

    def fetch(self, rows: Indices) -> tuple[object, object]:
        """Inputs and targets of ``rows``."""


class TensorStore:
    """Examples that lie in memory as trees of tensors of equal length."""

    def __init__(
        self, inputs: Any, targets: Any, facts: Mapping[str, object] | None = None, places: Indices | None = None
    ) -> None:
        self.inputs, self.targets, self.facts = inputs, targets, facts or {}
        self.places = np.arange(len(self)) if places is None else places

    def __len__(self) -> int:
        return row_count(self.targets)

    def fetch(self, rows: Indices) -> tuple[object, object]:
        """Inputs and targets of ``rows``."""
        index = torch.from_numpy(rows)
        return map_tensors(self.inputs, lambda t: t[index]), map_tensors(self.targets, lambda t: t[index])

    @functools.cached_property
    def digests(self) -> list[bytes]:
        """SHA-256 of each row."""
        return digests_of(self.inputs, self.targets)

    @functools.cached_property
    def labels(self) -> Indices | None:
        """Integer class of each row ``(n,)``, or None where targets are no classes."""
        return labels_of(self.targets)

    @functools.cached_property
    def flaws(self) -> Mapping[str, Indices]:
        """Rows that hold NaN or infinite values, by what is wrong with them."""
        return flaws_of(self.inputs, self.targets)


class DatasetStore:
    """Examples read one by one from ``torch.utils.data.Dataset``s standing one after the other.

    A data set may have ``facts``, a mapping of plain values that results shall say about it, and ``pair`` (see
    `landscape.data.reading`). Its random numbers are frozen: every reading of a row finds Python's, NumPy's and
    torch's generators in the same state. ``steady`` tells whether that is enough to read the same values again.
    """

    def __init__(self, datasets: Sequence[Any], where: str = "the data set", places: Indices | None = None) -> None:
        self.datasets, self.where = list(datasets), where
        self.facts: dict[str, Any] = {}
        for dataset in self.datasets:
            self.facts.update(getattr(dataset, "facts", {}))
        sizes = [_length(d, where) for d in self.datasets]
        self._starts = np.cumsum([0, *sizes])
        self._pairs = [pair_of(d) for d in self.datasets]
        self.places = np.concatenate([np.arange(n) for n in sizes]) if places is None else places

    def __len__(self) -> int:
        return int(self._starts[-1])

    def one(self, row: int) -> tuple[Any, Any]:
        """Input and target of one row, as trees of tensors of their own: a data set may use its memory again.

        Raises:
            DataError: If the data set raises something, or gives no pair.
        """
        source = int(np.searchsorted(self._starts, row, side="right")) - 1
        place = row - int(self._starts[source])
        dataset = self.datasets[source]
        try:
            found = dataset[place]
        except Exception as error:
            if isinstance(error, LandscapeError) or is_the_machine(error):
                raise
            raise DataError(
                f"reading example {place} of {len(dataset)} raised {type(error).__name__}: {str(error)[:300]}",
                f"{type(dataset).__name__}, {self.where}",
                "mend the data set" if not isinstance(error, IndexError) else "let its length be what it holds",
            ) from error
        both = pair(found, f"row {place} of the data set", self._pairs[source])
        return map_tensors(both[0], Tensor.clone), map_tensors(both[1], Tensor.clone)

    def _frozen(self, rows: Iterable[int]) -> Iterator[tuple[object, object]]:
        """The pairs of rows with their random augmentation frozen: the same at every call."""
        with preserved_random_state():
            for row in rows:
                seed_everything("frozen example", int(row))
                yield self.one(int(row))

    def fetch(self, rows: Indices) -> tuple[object, object]:
        """Inputs and targets of ``rows``, frozen and stacked."""
        return collate(list(self._frozen(rows)))

    @functools.cached_property
    def steady(self) -> bool:
        """Whether the first and the last row are the same in two readings."""
        ends = dict.fromkeys((0, len(self) - 1))
        first, again = (Survey.of(self._frozen(ends)).digests for _ in range(2))
        return first == again

    @functools.cached_property
    def _survey(self) -> Survey:
        return Survey.of(self._frozen(range(len(self))))

    @property
    def digests(self) -> list[bytes]:
        """SHA-256 of each row, from one reading of the data."""
        return self._survey.digests

    @property
    def labels(self) -> Indices | None:
        """Integer class of each row ``(n,)``, from the same reading, or None where targets are no classes."""
        return self._survey.labels

    @property
    def flaws(self) -> Mapping[str, Indices]:
        """Rows that hold NaN or infinite values, from the same reading, by what is wrong with them."""
        return self._survey.flaws


def collate(pairs: Sequence[tuple[Any, Any]]) -> tuple[object, object]:
    """Stack ``(input, target)`` pairs.

    Raises:
        DataError: If they do not stack.
    """
    try:
        inputs, targets = (stacked([p[i] for p in pairs]) for i in (0, 1))
    except (TypeError, KeyError, IndexError, RuntimeError) as error:
        raise DataError(
            f"the examples do not form a batch: {error}",
            "the data set",
            "return (input, target) of equal shapes; pad texts, boxes and the like to one length",
        ) from error
    return inputs, targets


def joined(stores: Sequence[TensorStore | DatasetStore], where: str) -> Store:
    """One store whose rows are those of ``stores``, one after the other.

    Raises:
        DataError: If they do not fit together.
    """
    if len(stores) == 1:
        return stores[0]
    places = np.concatenate([s.places for s in stores])
    facts = {k: v for s in stores for k, v in s.facts.items()}
    if all(isinstance(s, TensorStore) for s in stores):
        tensors = [s for s in stores if isinstance(s, TensorStore)]
        try:
            inputs, targets = concatenated([s.inputs for s in tensors]), concatenated([s.targets for s in tensors])
        except (RuntimeError, KeyError, TypeError) as error:
            raise DataError(f"the domains do not fit together: {error}", where, "use equal shapes") from error
        return TensorStore(inputs, targets, facts, places)
    if all(isinstance(s, DatasetStore) for s in stores):
        whole = DatasetStore([d for s in stores if isinstance(s, DatasetStore) for d in s.datasets], where, places)
        whole.facts = facts
        return whole
    raise DataError("some domains are tensors and some are Datasets", where, "use one kind")


def _length(dataset: Any, where: str) -> int:
    try:
        return len(dataset)
    except Exception as error:
        raise DataError(
            f"the length of a {type(dataset).__name__} raised {type(error).__name__}: {error}",
            where,
            "let __len__ return how many examples there are",
        ) from error
