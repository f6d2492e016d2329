"""Where examples come from: anything a user has, read as ``(input, target)`` rows.

Inputs are a tensor, a tuple (positional arguments of the model) or a dictionary (keyword arguments). A row or a
batch that is one dictionary holds its target under ``labels``, ``label``, ``targets``, ``target`` or ``y``; one
with ``input_ids`` and no target is a text, whose targets are its own tokens.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .errors import DataError
from .losses import IGNORED
from .parameters import continuous, preserved_random_state, seed_everything
from .trees import concatenated, leaves, map_tensors, row_count, skeleton, stacked
from .weights import plain

Indices = NDArray[np.int64]

TARGETS = ("labels", "label", "targets", "target", "y")


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
        for inputs, target in pairs:
            hasher = hashlib.sha256()
            hasher.update(f"{skeleton(inputs)} {skeleton(target)}".encode())
            for leaf in (*leaves(inputs), *leaves(target)):
                hasher.update(f"{leaf.dtype}{tuple(leaf.shape)}".encode())
                hasher.update(plain(leaf).flatten().view(torch.uint8).numpy().tobytes())
            digests.append(hasher.digest())
            whole = isinstance(target, Tensor) and target.ndim == 0 and not continuous(target)
            labels.append(int(target) if whole else None)
        known = [label for label in labels if label is not None]
        return cls(digests, np.array(known, dtype=np.int64) if len(known) == len(labels) else None)


class Store(Protocol):
    """Rows of inputs and targets."""

    def __len__(self) -> int: ...
    @property
    def facts(self) -> Mapping[str, Any]:
        """What results shall say about the examples."""

    @property
    def survey(self) -> Survey:
        """Digests and labels of all rows."""

    def fetch(self, rows: Indices) -> tuple[Any, Any]:
        """Inputs and targets of ``rows``."""


class TensorStore:
    """Examples that lie in memory as trees of tensors of equal length."""

    def __init__(self, inputs: Any, targets: Any, facts: Mapping[str, Any] | None = None) -> None:
        self.inputs, self.targets, self.facts = inputs, targets, facts or {}

    def __len__(self) -> int:
        return row_count(self.targets)

    def fetch(self, rows: Indices) -> tuple[Any, Any]:
        """Inputs and targets of ``rows``."""
        index = torch.from_numpy(rows)
        return map_tensors(self.inputs, lambda t: t[index]), map_tensors(self.targets, lambda t: t[index])

    @functools.cached_property
    def survey(self) -> Survey:
        """Digests and labels of all rows."""

        def row(i: int) -> tuple[Any, Any]:
            return map_tensors(self.inputs, lambda t: t[i]), map_tensors(self.targets, lambda t: t[i])

        return Survey.of(map(row, range(len(self))))


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

    def one(self, row: int) -> tuple[Any, Any]:
        """Input and target of one row, as trees of tensors."""
        source = int(np.searchsorted(self._starts, row, side="right")) - 1
        place = row - int(self._starts[source])
        return _pair(self.datasets[source][place], f"row {place} of the data set")

    def frozen(self, row: int) -> tuple[Any, Any]:
        """The pair of one row with its random augmentation frozen: the same at every call."""
        with preserved_random_state():
            seed_everything("frozen example", row)
            return self.one(row)

    def fetch(self, rows: Indices) -> tuple[Any, Any]:
        """Inputs and targets of ``rows``, frozen and stacked."""
        return collate([self.frozen(int(r)) for r in rows])

    @functools.cached_property
    def survey(self) -> Survey:
        """Digests and labels of all rows, from one reading of the data."""
        return Survey.of(self.frozen(i) for i in range(len(self)))


def collate(pairs: Sequence[tuple[Any, Any]]) -> tuple[Any, Any]:
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
            "return (input, target) of equal shapes; pad texts to one length",
        ) from error
    return inputs, targets


# -- what a user has ---------------------------------------------------------------------------------------------


def store_of(data: Any, where: str) -> TensorStore | DatasetStore:
    """Understand what a user calls data.

    That is a pair of tensors or arrays, a dictionary of tensors, a ``Dataset``, a list of rows, or a
    ``DataLoader``. A loader is read once, as its user set it up; its batches must be of one shape.

    Raises:
        DataError: If it is something else, empty, or of unequal lengths.
    """
    store: TensorStore | DatasetStore
    if isinstance(data, torch.utils.data.TensorDataset) and len(data.tensors) == 2:
        store = TensorStore(*data.tensors, getattr(data, "facts", None))
    elif isinstance(data, torch.utils.data.DataLoader):
        store = _loaded(data, where)
    elif _is_arrow(data):
        store = _arrow(data, where)
    elif is_table(data) or (isinstance(data, (tuple, list)) and len(data) == 2 and _are_columns(data)):
        store = _columns(data, where)
    elif _is_rows(data):
        store = DatasetStore([data])
    else:
        kind = f"{type(data).__name__}{f' of {len(data)}' if isinstance(data, (tuple, list)) else ''}"
        raise DataError(f"a data set cannot be a {kind}", where, "return (inputs, targets) or a torch Dataset")
    if len(store) == 0:
        raise DataError("there is no example", where, "a data set and each of its domains needs at least one")
    return store


def is_table(data: Any) -> bool:
    """Whether ``data`` is a dictionary of tensors or arrays, examples first."""
    return (
        isinstance(data, Mapping) and bool(data) and all(isinstance(v, (Tensor, np.ndarray)) for v in data.values())
    )


def joined(stores: Sequence[TensorStore | DatasetStore], where: str) -> Store:
    """One store whose rows are those of ``stores``, one after the other.

    Raises:
        DataError: If they do not fit together.
    """
    if all(isinstance(s, TensorStore) for s in stores):
        tensors = [s for s in stores if isinstance(s, TensorStore)]
        if len(tensors) == 1:
            return tensors[0]
        try:
            inputs, targets = concatenated([s.inputs for s in tensors]), concatenated([s.targets for s in tensors])
        except (RuntimeError, KeyError, TypeError) as error:
            raise DataError(f"the domains do not fit together: {error}", where, "use equal shapes") from error
        return TensorStore(inputs, targets, {k: v for s in tensors for k, v in s.facts.items()})
    if all(isinstance(s, DatasetStore) for s in stores):
        return DatasetStore([d for s in stores if isinstance(s, DatasetStore) for d in s.datasets])
    raise DataError("some domains are tensors and some are Datasets", where, "use one kind")


def _is_rows(data: Any) -> bool:
    if isinstance(data, list):
        return all(isinstance(row, (tuple, list, Mapping)) for row in data)
    return hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, (str, tuple, Tensor))


def _are_columns(pair: Sequence[Any]) -> bool:
    """Whether ``pair`` is (inputs, targets) with examples first, and no list of two rows."""
    if isinstance(pair, list) and not isinstance(pair[1], (Tensor, np.ndarray)):
        return False
    return all(isinstance(leaf, (Tensor, np.ndarray)) for part in pair for leaf in _any_leaves(part))


def _any_leaves(tree: Any) -> Iterable[Any]:
    if isinstance(tree, Mapping):
        tree = tree.values()
    elif not isinstance(tree, (tuple, list)):
        return [tree]
    return [leaf for item in tree for leaf in _any_leaves(item)]


def _columns(data: Any, where: str) -> TensorStore:
    inputs, targets = _pair(data, where)
    sizes, wanted = ({len(t) if t.ndim else 0 for t in leaves(tree)} for tree in (inputs, targets))
    if len(wanted) != 1 or sizes != wanted:
        shown = next(iter(wanted)) if len(wanted) == 1 else sorted(wanted)
        raise DataError(f"inputs have {sorted(sizes)} examples, targets {shown}", where, "make them equal")
    return TensorStore(map_tensors(inputs, Tensor.detach), map_tensors(targets, Tensor.detach))


def _is_arrow(data: Any) -> bool:
    """Whether ``data`` is a table of the ``datasets`` library that holds numbers and texts, nothing to decode."""
    features = getattr(data, "features", None)
    if not isinstance(features, Mapping) or not hasattr(data, "with_format") or not hasattr(data, "column_names"):
        return False
    decoded = any(type(f).__name__ in ("Image", "Audio", "Video", "Pdf") for f in features.values())
    return not decoded and data.format["type"] != "custom"


def _arrow(data: Any, where: str) -> TensorStore:
    numbers = {k: v for k, v in data.with_format("numpy")[:].items() if getattr(v, "dtype", None) is not None}
    ragged = [k for k, v in numbers.items() if v.dtype == object and isinstance(v[0], (list, np.ndarray))]
    if ragged:
        raise DataError(f"rows differ in length: {', '.join(ragged)}", where, "pad them, padding='max_length'")
    store = _columns({k: v for k, v in numbers.items() if v.dtype.kind in "biuf"}, where)
    names = [getattr(f, "names", None) for k, f in data.features.items() if k in TARGETS]
    store.facts = {"classes": names[0]} if names and names[0] else {}
    return store


def _loaded(loader: Any, where: str) -> TensorStore:
    with preserved_random_state():
        seed_everything("loader")
        batches = [_columns(batch, where) for batch in loader]
    if not batches:
        raise DataError("there is no example", where, "a data set and each of its domains needs at least one")
    try:
        inputs, targets = (concatenated([getattr(b, part) for b in batches]) for part in ("inputs", "targets"))
    except (RuntimeError, KeyError, TypeError) as error:
        raise DataError(f"the loader's batches differ in shape: {error}", where, "pad to one length") from error
    return TensorStore(inputs, targets, getattr(loader.dataset, "facts", None))


def _pair(row: Any, where: str) -> tuple[Any, Any]:
    """Input and target of a row or a batch, as trees of tensors.

    Raises:
        DataError: If it is no pair, or holds something that is no number.
    """
    if isinstance(row, Mapping):
        inputs, target = _split_table(row, where)
    elif isinstance(row, (tuple, list)) and len(row) == 2:
        inputs, target = row
    else:
        count = f" of {len(row)}" if isinstance(row, (tuple, list)) else ""
        raise DataError(
            f"the examples do not form a batch: one is a {type(row).__name__}{count}",
            where,
            "return (input, target), where input may be a tuple or a dictionary",
        )
    return _tensors(inputs, where), _tensors(target, where)


def _split_table(row: Mapping[str, Any], where: str) -> tuple[Any, Any]:
    found = [k for k in TARGETS if k in row]
    if len(found) > 1:
        raise DataError(f"there are several targets: {', '.join(found)}", where, "leave one")
    inputs = {k: v for k, v in row.items() if k not in found and not isinstance(v, (str, bytes, type(None)))}
    if found:
        return inputs, row[found[0]]
    if "input_ids" not in row:
        raise DataError(f"there is no target among: {', '.join(row)}", where, f"name it {TARGETS[0]!r}")
    tokens = torch.as_tensor(row["input_ids"])
    mask = row.get("attention_mask")
    return inputs, tokens if mask is None else tokens.masked_fill(torch.as_tensor(mask) == 0, IGNORED)


def _tensors(tree: Any, where: str) -> Any:
    """Numbers, arrays and lists of numbers as tensors; tuples and dictionaries stay what they are."""
    if isinstance(tree, Tensor):
        return tree
    if isinstance(tree, Mapping):
        return {k: _tensors(v, where) for k, v in tree.items()}
    if isinstance(tree, tuple) or (isinstance(tree, list) and any(isinstance(v, (Tensor, np.ndarray)) for v in tree)):
        return tuple(_tensors(v, where) for v in tree)
    try:
        if not isinstance(tree, (int, float, np.ndarray, np.generic, list)):
            raise TypeError("no numbers")
        array = np.asarray(tree)
        return torch.from_numpy(array if array.flags.writeable else array.copy())
    except (TypeError, ValueError) as error:
        raise DataError(
            f"a {type(tree).__name__} is no tensor", where, "return tensors (for images, add transforms.ToTensor())"
        ) from error
