"""What the examples are, looked at once: digests of their content, class labels, and values that are not finite.

Tensors are looked at in stretches of many rows; rows of a ``Dataset`` one by one, in a single reading.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..numerics.trees import leaves, map_tensors, row_count, skeleton

Indices = NDArray[np.int64]

_CARRIERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_STRETCH_BYTES = 2**26


@dataclass(frozen=True)
class Survey:
    """What one pass over rows tells.

    Attributes:
        digests: SHA-256 of each row's input and target (types, shapes, bytes).
        labels: Integer class of each row ``(n,)``, or None where targets are no classes.
        flaws: From what is wrong (``"NaN in the inputs"``) to the rows ``(k,)``; NaN first, nothing if all is finite.
    """

    digests: list[bytes]
    labels: Indices | None
    flaws: dict[str, Indices]

    @classmethod
    def of(cls, pairs: Iterable[tuple[Any, Any]]) -> Survey:
        """Look at every ``(input, target)`` pair once."""
        digests: list[bytes] = []
        labels: list[int] = []
        flaws: dict[str, list[int]] = {}
        for row, (inputs, target) in enumerate(pairs):
            hasher = hashlib.sha256(f"{skeleton(inputs)} {skeleton(target)}".encode())
            finite = True
            for leaf in (*leaves(inputs), *leaves(target)):
                hasher.update(f"{leaf.dtype}{tuple(leaf.shape)}".encode())
                hasher.update(bytes_of(leaf))
                finite = finite and _surely_finite(leaf)
            digests.append(hasher.digest())
            if _is_label(target, rows=False):
                labels.append(int(target))
            if not finite:
                for flaw in flaws_of(*(map_tensors(tree, lambda t: t[None]) for tree in (inputs, target))):
                    flaws.setdefault(flaw, []).append(row)
        whole = np.array(labels, dtype=np.int64) if len(labels) == len(digests) else None
        return cls(digests, whole, {k: np.array(flaws[k]) for k in sorted(flaws, key=_worst_first)})


def digests_of(inputs: object, targets: object) -> list[bytes]:
    """SHA-256 of each row of two trees of tensors, examples first: types, shapes and bytes, whatever the strides."""
    found = [*leaves(inputs), *leaves(targets)]
    heads = [f"{leaf.dtype}{tuple(leaf.shape[1:])}".encode() for leaf in found]
    start = hashlib.sha256(f"{skeleton(inputs)} {skeleton(targets)}".encode() + heads[0])
    digests = []
    for rows in _stretches(found):
        n = rows.stop - rows.start
        raws = [bytes_of(leaf[rows]) for leaf in found]
        parts = [(raw, len(raw) // n, head) for raw, head in zip(raws, heads, strict=True)]
        for i in range(n):
            hasher = start.copy()
            for k, (raw, size, head) in enumerate(parts):
                if k:
                    hasher.update(head)
                hasher.update(raw[i * size : (i + 1) * size])
            digests.append(hasher.digest())
    return digests


def labels_of(targets: Any) -> Indices | None:
    """Integer classes ``(n,)`` from one tensor of integers or booleans, ``(n,)`` or ``(n, 1)``; None otherwise."""
    if not _is_label(targets, rows=True):
        return None
    labels: Indices = targets.detach().reshape(-1).cpu().long().numpy()
    return labels


def _is_label(target: object, *, rows: bool) -> bool:
    """Whether a target, or each row of targets, is one integer or boolean, in a vector of one at most."""
    if not isinstance(target, Tensor) or target.is_floating_point() or target.is_complex():
        return False
    shape = target.shape[1:] if rows else target.shape
    return len(shape) < 2 and shape.numel() == 1


def flaws_of(inputs: object, targets: object) -> dict[str, Indices]:
    """Rows that hold NaN or infinite values, by what is wrong with them; see `Survey`."""
    found: dict[str, Indices] = {}
    for part, tree in (("inputs", inputs), ("targets", targets)):
        suspect = [leaf for leaf in leaves(tree) if not _surely_finite(leaf)]
        if not suspect:
            continue
        nan, infinite = (np.zeros(row_count(tree), dtype=bool) for _ in range(2))
        for leaf in suspect:
            for rows in _stretches([leaf]):
                values = leaf[rows]
                if values.element_size() == 1:  # eight-bit floats cannot be asked
                    values = values.float()
                values = values.reshape(len(values), -1)
                nan[rows] |= values.isnan().any(1).cpu().numpy()
                infinite[rows] |= values.isinf().any(1).cpu().numpy()
        named = ((f"NaN in the {part}", nan), (f"infinite values in the {part}", infinite))
        found |= {name: np.flatnonzero(rows) for name, rows in named if rows.any()}
    return {k: found[k] for k in sorted(found, key=_worst_first)}


def _worst_first(flaw: str) -> bool:
    return not flaw.startswith("NaN")


def _surely_finite(leaf: Tensor) -> bool:
    """Whether the sum is finite, which no NaN and no infinity leaves it; a sum that overflows is no proof."""
    if not leaf.is_floating_point() and not leaf.is_complex():
        return True
    small = leaf.is_floating_point() and leaf.element_size() < 4
    total = (leaf.float() if leaf.element_size() == 1 else leaf).sum(dtype=torch.float32 if small else None)
    return bool(torch.isfinite(total))


def _stretches(tensors: list[Tensor]) -> Iterator[slice]:
    """Stretches of rows of at most `_STRETCH_BYTES`, so that copies stay small beside the data."""
    n = len(tensors[0])
    size = sum(t.element_size() * t.shape[1:].numel() for t in tensors)
    step = max(1, _STRETCH_BYTES // max(1, size))
    for first in range(0, n, step):
        yield slice(first, min(first + step, n))


def bytes_of(tensor: Tensor) -> memoryview:
    """The bytes of all elements in order."""
    plain = tensor.detach().resolve_conj().resolve_neg().cpu()
    # Numpy knows no bfloat16 or eight-bit floats: bits are carried by integers of the same size.
    carried = plain.view(_CARRIERS[plain.element_size()]) if plain.element_size() in _CARRIERS else plain
    return memoryview(carried.numpy().tobytes())
