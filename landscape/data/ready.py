"""Ready-made batches of any kind, which an objective is called with: rows that are never looked into.

A batch is whatever a loader gives: dictionaries, lists of targets, graphs, objects of the user's own. It is taken as
it is, tensors are copied once (a loader may use its memory again), and every call of the objective gets containers
and objects of its own over the same numbers, so that it may take keys out or mark inputs as wanting gradients.
"""

from __future__ import annotations

import copy
import functools
import itertools
import types
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..base.errors import DataError, LandscapeError, UsageError, is_the_machine
from ..base.files import parts_hash
from ..numerics.layouts import held_bytes, is_plain, plain_parts
from ..runtime.devices import type_at
from ..runtime.random_state import preserved_random_state, seed_everything
from .digests import Indices, bytes_of

_DEPTH = 60
_PLAIN = (type(None), bool, int, float, complex, str, bytes, np.generic, torch.dtype, torch.device, torch.Size)


class Ready:
    """Some ready-made batches, as the inputs of a network that computes its own loss.

    Args:
        batches: The batches themselves.
        counts: How many terms the loss of each is a sum of; None where no pass has told yet. The first pass writes
            them here, and each later one compares.
        nbytes: Memory of their tensors.
    """

    def __init__(self, batches: Sequence[object], counts: list[float] | None, nbytes: int) -> None:
        self.batches, self.counts, self.nbytes = tuple(batches), counts, nbytes

    def __len__(self) -> int:
        return len(self.batches)

    def fresh(self, place: int) -> object:
        """One batch, whose containers and objects belong to whoever asks; its numbers are shared."""
        return rebuilt(self.batches[place], Tensor.detach)

    def to(self, device: torch.device, dtype: torch.dtype) -> Ready:
        """On ``device``; floating and complex tensors at the precision ``dtype``, all else as it is."""
        sizes: list[int] = []

        def cast(tensor: Tensor) -> Tensor:
            found = tensor.to(type_at(tensor, dtype))
            sizes.append(held_bytes(found))
            return found

        moved = [rebuilt(batch, cast) for batch in self.batches]
        if device.type != "cpu":
            moved = [_on(batch, device) for batch in moved]
        return Ready(moved, self.counts, sum(sizes))

    def rows(self, index: Tensor) -> Ready:
        """Some of the batches."""
        chosen = index.tolist()
        counts = None if self.counts is None else [self.counts[i] for i in chosen]
        return Ready([self.batches[i] for i in chosen], counts, self.nbytes * len(chosen) // max(1, len(self)))


class ReadyStore:
    """Ready-made batches in memory, each a row; a row's target is the count of its terms, once a pass has told it.

    Args:
        batches: What `read_ready` gives.
        facts: What results shall say about them.
        places: Where each stands in the user's own sequence.
        counts: Of the terms of each batch, NaN where unknown.
    """

    labels: Indices | None = None

    def __init__(
        self,
        batches: Sequence[object],
        facts: Mapping[str, object] | None = None,
        places: Indices | None = None,
        counts: Any = None,
    ) -> None:
        self.batches, self.facts = list(batches), facts or {}
        self.places = np.arange(len(self.batches)) if places is None else places
        self.counts = np.full(len(self.batches), np.nan) if counts is None else counts
        self.flaws: Mapping[str, Indices] = {}

    def __len__(self) -> int:
        return len(self.batches)

    def fetch(self, rows: Indices) -> tuple[Ready, Tensor]:
        """The batches of ``rows``, and what their losses are sums of."""
        counts = self.counts[rows]
        known = bool(np.isfinite(counts).all())
        found = Ready([self.batches[i] for i in rows], counts.tolist() if known else None, 0)
        return found, torch.from_numpy(np.where(np.isfinite(counts), counts, 1.0))

    def counted(self, rows: Indices, counts: object) -> ReadyStore:
        """The same with the counts of ``rows`` known."""
        every = self.counts.copy()
        every[rows] = counts
        found = ReadyStore(self.batches, self.facts, self.places, every)
        found.__dict__["digests"] = self.digests
        return found

    @functools.cached_property
    def digests(self) -> list[bytes]:
        """SHA-256 of the content of each batch."""
        return [content_digest(batch) for batch in self.batches]


def read_ready(data: Any, where: str, first: int | None = None) -> ReadyStore:
    """Go once through a loader, a sequence or another iterable of batches, and keep what it gives.

    A loader that shuffles is read under a fixed seed; what it gives then is what every pass sees.

    Args:
        data: The batches.
        where: What it is called in messages.
        first: How many to read, where nothing says where they end.

    Raises:
        DataError: If it is no iterable, is empty, or raises.
        UsageError: If it may have no end and ``first`` is not given.
    """
    if isinstance(data, (Tensor, np.ndarray, str, bytes)) or not (
        hasattr(data, "__iter__") or (hasattr(data, "__getitem__") and hasattr(data, "__len__"))
    ):
        fix = "return a list or a loader of batches, or a mapping from domain names to such"
        raise DataError(f"a {type(data).__name__} gives no batches", where, fix)
    if isinstance(data, tuple) and len(data) == 2 and all(isinstance(part, Tensor) for part in data):
        fix = "return [(inputs, targets)] for one batch, or a DataLoader of them"
        raise DataError("a pair of tensors is no sequence of batches, as an objective wants it", where, fix)
    if first is None and not _has_end(data):
        raise UsageError(
            f"a {type(data).__name__} can be gone through only once, perhaps without end",
            where,
            "return list(...) of its batches, or say how many to read: `examples=N` "
            "(Examples.of_batches(data, first=N) in Python)",
        )
    batches = []
    with preserved_random_state():
        seed_everything("ready-made batches")
        try:
            given = data if hasattr(data, "__iter__") else (data[i] for i in range(len(data)))
            for batch in given if _has_end(data) else itertools.islice(given, first):
                batches.append(rebuilt(batch, lambda t: t.detach().clone()))
        except Exception as error:
            if isinstance(error, LandscapeError) or is_the_machine(error):
                raise
            what = f"reading batch {len(batches)} raised {type(error).__name__}: {str(error)[:300]}"
            raise DataError(what, where, "mend the loader") from error
    if not batches:
        raise DataError("there is no batch", where, "it, and each of its domains, needs at least one")
    return ReadyStore(batches, getattr(getattr(data, "dataset", data), "facts", None))


def _has_end(data: Any) -> bool:
    if hasattr(data, "__next__"):
        return False
    try:
        len(data)
    except Exception:
        return False
    return True


def joined_ready(stores: Sequence[ReadyStore]) -> ReadyStore:
    """One store whose rows are those of ``stores``, one after the other."""
    if len(stores) == 1:
        return stores[0]
    facts = {k: v for s in stores for k, v in s.facts.items()}
    places = np.concatenate([s.places for s in stores])
    return ReadyStore([b for s in stores for b in s.batches], facts, places)


# -- batches of any kind -----------------------------------------------------------------------------------------


class _Through(TorchFunctionMode):
    """While on, ``copy.deepcopy`` gives in place of a tensor what a function makes of it."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> object:
        if func is not Tensor.__deepcopy__:
            return func(*args, **(kwargs or {}))
        tensor, memo = args
        memo[id(tensor)] = found = self.function(tensor)
        return found


def rebuilt(value: Any, function: Callable[[Tensor], Tensor]) -> object:
    """A deep copy in which ``function`` has made every tensor; what cannot be copied is itself."""
    if isinstance(value, Tensor):
        return function(value)
    if type(value) in (dict, OrderedDict):
        return type(value)((k, rebuilt(v, function)) for k, v in value.items())
    if type(value) in (list, tuple):
        return type(value)(rebuilt(v, function) for v in value)
    if isinstance(value, _PLAIN):
        return value
    try:
        with _Through(function):
            return copy.deepcopy(value)
    except Exception as error:
        if is_the_machine(error):
            raise
        return value


def doubled(batch: object) -> Any | None:
    """A batch followed by itself; None unless it is tensors of one length in lists, tuples and dictionaries."""
    found = list(_flat(batch))
    lengths = {len(t) if isinstance(t, Tensor) and t.ndim and is_plain(t) else 0 for t in found}
    if len(lengths) != 1 or not lengths.pop():
        return None
    return rebuilt(batch, lambda t: torch.cat([t, t]))


def _flat(tree: Any) -> Iterable[object]:
    if type(tree) in (dict, OrderedDict):
        tree = tree.values()
    elif type(tree) not in (list, tuple):
        return [tree]
    return [leaf for part in tree for leaf in _flat(part)]


def _on(value: Any, device: torch.device) -> object:
    """Moved to a device, by its own ``to`` where it has one: it knows what has to stay."""
    if isinstance(value, Tensor):
        return value.to(device)
    if type(value) in (dict, OrderedDict):
        return type(value)((k, _on(v, device)) for k, v in value.items())
    if type(value) in (list, tuple):
        return type(value)(_on(v, device) for v in value)
    move = getattr(value, "to", None)
    if callable(move):
        found = move(device)
        return value if found is None else found
    return rebuilt(value, lambda tensor: tensor.to(device))


def content_digest(value: object) -> bytes:
    """SHA-256 of what a batch holds: kinds, names, shapes and numbers; no addresses, and no code."""
    return _digest(value, ())


def _digest(value: object, around: tuple[int, ...]) -> bytes:
    if isinstance(value, Tensor):
        head = f"{value.dtype} {tuple(value.shape)} {value.layout}" if not value.is_nested else "nested"
        return parts_hash(
            "tensor", head, *(parts_hash(str(p.dtype), str(p.shape), bytes(bytes_of(p))) for p in plain_parts(value))
        )
    if isinstance(value, np.ndarray) and value.dtype != object:
        return parts_hash("array", f"{value.dtype} {value.shape}", np.ascontiguousarray(value).tobytes())
    if isinstance(value, Enum):
        return parts_hash("enum", type(value).__qualname__, value.name)
    if isinstance(value, _PLAIN):
        return parts_hash(type(value).__name__, repr(value))
    if id(value) in around or len(around) > _DEPTH:
        return parts_hash("again", type(value).__qualname__)
    inside, name = (*around, id(value)), type(value).__qualname__
    if isinstance(value, (weakref.ref, type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType)):
        return parts_hash("reference", getattr(value, "__qualname__", name))
    if isinstance(value, Mapping):
        return parts_hash("mapping", name, *(_digest(part, inside) for item in value.items() for part in item))
    if isinstance(value, (list, tuple, np.ndarray)):
        return parts_hash("sequence", name, *(_digest(part, inside) for part in value))
    if isinstance(value, (set, frozenset)):
        return parts_hash("set", *sorted(_digest(part, inside) for part in value))
    held = _held(value)
    if not held and hasattr(value, "__array_interface__"):  # an image
        return parts_hash("array", name, _digest(np.asarray(value), inside))
    if not held and isinstance(value, Iterable) and hasattr(value, "__len__"):
        return parts_hash("sequence", name, *(_digest(part, inside) for part in value))
    return parts_hash("object", name, *(_digest(part, inside) for item in sorted(held.items()) for part in item))


def _held(value: object) -> dict[str, object]:
    """The attributes of an object, also those in slots."""
    found = dict(getattr(value, "__dict__", {}))
    for base in type(value).__mro__:
        slots = vars(base).get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            if slot not in ("__dict__", "__weakref__") and hasattr(value, slot):
                found[slot] = getattr(value, slot)
    return found
