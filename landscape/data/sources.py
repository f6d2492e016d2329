"""What people call data, as a store of rows: tensors, tables, ``Dataset``s, lists, loaders, streams.

What a row may be stands in `landscape.data.reading`.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..base.errors import DataError, UsageError
from ..numerics.trees import concatenated, leaves, map_tensors, row_count
from ..runtime.random_state import preserved_random_state, seed_everything
from .reading import PAIR, TARGETS, are_columns, is_array, pair, pair_of
from .stores import DatasetStore, TensorStore, collate

log = logging.getLogger(__name__)


def store_of(data: object, where: str, first: int | None = None) -> TensorStore | DatasetStore:
    """Understand what a user calls data.

    That is a pair of tensors or arrays, a dictionary of tensors, a ``Dataset``, a list of rows, or a
    ``DataLoader``. A loader is read once, as its user set it up; its batches must be of one shape. Of a stream
    (an ``IterableDataset``, a loader of one, a generator) the first ``first`` examples are read, once.

    Raises:
        DataError: If it is something else, empty, or of unequal lengths.
        UsageError: If it is a stream and nobody said how much of it to read.
    """
    store: TensorStore | DatasetStore
    if _is_stream(data):
        store = _streamed(data, where, first)
    elif isinstance(data, torch.utils.data.TensorDataset) and len(data.tensors) == 2 and pair_of(data) is None:
        store = _columns(data.tensors, where)
        store.facts = getattr(data, "facts", {})
    elif isinstance(data, torch.utils.data.DataLoader):
        store = _loaded(data, where)
    elif _is_arrow(data):
        store = _arrow(data, where)
    elif is_table(data) or (isinstance(data, (tuple, list)) and len(data) == 2 and are_columns(data)):
        store = _columns(data, where)
    elif _is_rows(data):
        store = DatasetStore([data], where)
        if len(store) and not store.steady:
            store.facts["unsteady"] = True
            log.warning("%s gives other values at every reading of one example: what is read now is taken", where)
    else:
        raise _no_data(data, where)
    if len(store) == 0:
        raise _nothing(where)
    return store


def _no_data(data: object, where: str) -> DataError:
    kind = type(data).__name__
    if hasattr(data, "__getitem__") and not hasattr(data, "__len__"):
        return DataError(f"a {kind} has no length", where, "give it __len__")
    fix = "return (inputs, targets) or a torch Dataset"
    if isinstance(data, (tuple, list)):
        kind += f" of {len(data)}"
        if len(data) == 2:
            kind += f": {' and '.join(type(part).__name__ for part in data)}"
            if any(hasattr(part, "toarray") for part in data):
                fix = "make sparse arrays dense: array.toarray()"
        elif len(data) == 3:
            fix = f"return (inputs, targets), and a mapping from domains to such pairs for domains; {PAIR}"
    elif is_array(data) and hasattr(data, "columns"):
        fix = "return (frame[features].to_numpy(), frame[target].to_numpy())"
    return DataError(f"a data set cannot be a {kind}", where, fix)


def is_table(data: object) -> bool:
    """Whether ``data`` is a dictionary of tensors or arrays, examples first."""
    return isinstance(data, Mapping) and bool(data) and all(is_array(v) for v in data.values())


def _is_rows(data: object) -> bool:
    if isinstance(data, list):
        return all(isinstance(row, (tuple, list, Mapping)) for row in data)
    if is_array(data) or isinstance(data, (str, bytes, tuple)):
        return False
    return hasattr(data, "__getitem__") and hasattr(data, "__len__")


def _is_stream(data: object) -> bool:
    """Whether ``data`` can only be gone through, from its beginning and perhaps without end."""
    source = data.dataset if isinstance(data, torch.utils.data.DataLoader) else data
    if isinstance(source, torch.utils.data.IterableDataset) or hasattr(source, "__next__"):
        return True
    return (
        hasattr(source, "__iter__")
        and not hasattr(source, "__getitem__")
        and not isinstance(source, (set, frozenset))
    )


def _streamed(data: Any, where: str, first: int | None) -> TensorStore:
    if first is None:
        raise UsageError(
            f"a {type(data).__name__} has no fixed examples: it can be gone through, perhaps without end",
            where,
            "say how many to read: `examples=N` in an analysis (Examples.of(data, first=N) in Python), or return "
            "list(itertools.islice(dataset, N))",
        )
    loader = isinstance(data, torch.utils.data.DataLoader)
    with preserved_random_state():
        seed_everything("stream")
        inputs, targets = (_batches if loader else _rows)(data, where, first)
    inputs, targets = (map_tensors(tree, lambda t: t[:first]) for tree in (inputs, targets))
    facts = getattr(data.dataset if loader else data, "facts", {})
    return TensorStore(inputs, targets, {**facts, "read_from_stream": row_count(targets)})


def _rows(stream: Iterable[object], where: str, first: int) -> tuple[Any, Any]:
    hook = pair_of(stream)
    rows: list[tuple[Any, Any]] = []
    for item in itertools.islice(stream, first):
        inputs, targets = pair(item, f"row {len(rows)} of {where}", hook)
        rows.append((map_tensors(inputs, Tensor.clone), map_tensors(targets, Tensor.clone)))
    if not rows:
        raise _nothing(where)
    return collate(rows)


def _batches(loader: Any, where: str, first: float = math.inf) -> tuple[object, object]:
    """What a loader gives, until there are ``first`` examples; each batch is copied, its memory may be used again."""
    hook = pair_of(loader)
    batches: list[TensorStore] = []
    for item in loader:
        batch = _columns(item, where, hook)
        batches.append(TensorStore(map_tensors(batch.inputs, Tensor.clone), map_tensors(batch.targets, Tensor.clone)))
        if sum(map(len, batches)) >= first:
            break
    if not batches:
        raise _nothing(where)
    try:
        return concatenated([b.inputs for b in batches]), concatenated([b.targets for b in batches])
    except (RuntimeError, KeyError, TypeError) as error:
        raise DataError(f"the loader's batches differ in shape: {error}", where, "pad to one length") from error


def _columns(data: object, where: str, hook: Callable[[object], object] | None = None) -> TensorStore:
    inputs, targets = pair(data, where, hook)
    sizes, wanted = ({len(t) if t.ndim else 0 for t in leaves(tree)} for tree in (inputs, targets))
    if len(wanted) != 1 or sizes != wanted:
        shown = next(iter(wanted)) if len(wanted) == 1 else sorted(wanted)
        raise DataError(f"inputs have {sorted(sizes)} examples, targets {shown}", where, "make them equal")
    return TensorStore(inputs, targets)


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
        return TensorStore(*_batches(loader, where), getattr(loader.dataset, "facts", None))


def _nothing(where: str) -> DataError:
    return DataError("there is no example", where, "a data set and each of its domains needs at least one")
