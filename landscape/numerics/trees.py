"""Trees of tensors: what models take and return - a tensor, or tuples, lists and dictionaries of trees."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any

import torch
from torch import Tensor


def map_tensors(tree: object, function: Callable[[Tensor], Tensor]) -> Any:
    """Apply ``function`` to every tensor of a tree; lists become tuples."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, Mapping):
        return {k: map_tensors(v, function) for k, v in tree.items()}
    if isinstance(tree, (tuple, list)):
        return tuple(map_tensors(v, function) for v in tree)
    return tree


def leaves(tree: object) -> Iterator[Tensor]:
    """The tensors of a tree, in a fixed order."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, Mapping):
        for key in sorted(tree, key=str):
            yield from leaves(tree[key])
    elif isinstance(tree, (tuple, list)):
        for item in tree:
            yield from leaves(item)


def skeleton(tree: object) -> object:
    """A tree without its tensors: names and places decide which argument a tensor becomes."""
    if isinstance(tree, Mapping):
        return {str(k): skeleton(tree[k]) for k in sorted(tree, key=str)}
    return [skeleton(v) for v in tree] if isinstance(tree, (tuple, list)) else "."


def row_count(tree: object) -> int:
    """Number of examples in a tree whose tensors hold examples first."""
    return len(next(leaves(tree)))


def take_rows(tree: object, index: Tensor) -> object:
    """The examples at ``index`` of a tree; kinds of dictionaries and named tuples are kept, as losses read them."""
    return map_kept(tree, lambda t: t[index] if t.ndim else t)


def map_kept(tree: object, function: Callable[[Tensor], Tensor]) -> Any:
    """As `map_tensors`, and dataclasses and named tuples stay what they are."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, Mapping):
        items = {k: map_kept(v, function) for k, v in tree.items()}
        return type(tree)(**items) if is_dataclass(tree) else items
    if isinstance(tree, (tuple, list)):
        parts = [map_kept(v, function) for v in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
    return tree


def divisible(output: object, n: int) -> bool:
    """Whether every tensor of an output has a row per example: one that computes its own loss has not."""
    if not isinstance(output, (Tensor, tuple, list, Mapping)):
        return False
    found = list(leaves(output))
    return bool(found) and all(t.ndim and t.shape[0] == n for t in found)


def stacked(trees: Sequence[object]) -> Any:
    """One tree whose tensors hold the examples ``trees`` along a new first dimension."""
    return _merged(trees, torch.stack)


def concatenated(trees: Sequence[object]) -> object:
    """One tree whose tensors hold the examples of all ``trees`` one after the other."""
    return _merged(trees, torch.cat)


def _merged(trees: Sequence[Any], merge: Callable[[list[Tensor]], Tensor]) -> object:
    first = trees[0]
    if isinstance(first, Mapping):
        return {k: _merged([t[k] for t in trees], merge) for k in first}
    if isinstance(first, tuple):
        return tuple(_merged([t[i] for t in trees], merge) for i in range(len(first)))
    return merge(list(trees))
