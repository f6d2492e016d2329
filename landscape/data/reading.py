"""One row or one batch of what people call data, as ``(input, target)`` trees of tensors.

Inputs are a tensor, a tuple (positional arguments of the model) or a dictionary (keyword arguments). A row or a
batch that is one dictionary holds its target under ``labels``, ``label``, ``targets``, ``target`` or ``y``; one
with ``input_ids`` and no target is a text, whose targets are its own tokens. A data set whose rows are something
else, ``(x, y, metadata)`` for example, has a method ``pair(row)`` (or an attribute that can be called) that gives
the two: ``dataset.pair = lambda row: row[:2]``. It is also found on what a ``Subset`` or a loader stands on.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..base.errors import DataError, LandscapeError
from ..base.process_state import one_at_a_time
from .losses import IGNORED

TARGETS = ("labels", "label", "targets", "target", "y")
PAIR = "for rows of another kind, as (x, y, metadata), give the data set a method pair(row) that returns the two"


def pair_of(source: object) -> Callable[[object], object] | None:
    """The ``pair`` of a data set, or of the one that it is a part of; None where there is none."""
    while source is not None and not isinstance(source, (Mapping, list, tuple)):
        hook = getattr(source, "pair", None)
        if callable(hook):
            found: Callable[[Any], Any] = hook
            return found
        source = getattr(source, "dataset", None)
    return None


def pair(row: object, where: str, hook: Callable[[object], object] | None = None) -> tuple[Any, Any]:
    """Input and target of a row or a batch, as trees of tensors.

    Args:
        row: What the data set gives.
        where: For messages.
        hook: From `pair_of`; turns the row into ``(input, target)`` first.

    Raises:
        DataError: If it is no pair, or holds something that is no number.
    """
    if hook is not None:
        try:
            row = hook(row)
        except LandscapeError:
            raise
        except Exception as error:
            raise DataError(f"pair(row) raised {type(error).__name__}: {error}", where, "mend it") from error
    if isinstance(row, Mapping):
        inputs, target = _split_table(row, where)
    elif isinstance(row, (tuple, list)) and len(row) == 2:
        inputs, target = row
    else:
        count = f" of {len(row)}" if isinstance(row, (tuple, list)) else ""
        raise DataError(
            f"the examples do not form a batch: one is a {type(row).__name__}{count}",
            where,
            f"return (input, target), where input may be a tuple or a dictionary; {PAIR}",
        )
    return tensors(inputs, where), tensors(target, where)


def _split_table(row: Mapping[str, object], where: str) -> tuple[object, object]:
    found = [k for k in TARGETS if k in row]
    if len(found) > 1:
        raise DataError(f"there are several targets: {', '.join(found)}", where, "leave one")
    inputs = {k: v for k, v in row.items() if k not in found and not isinstance(v, (str, bytes, type(None)))}
    if found:
        return inputs, row[found[0]]
    if "input_ids" not in row:
        names = ", ".join(map(str, row))
        raise DataError(f"there is no target among: {names}", where, f"name it {TARGETS[0]!r}")
    tokens = torch.as_tensor(row["input_ids"])
    mask = row.get("attention_mask")
    return inputs, tokens if mask is None else tokens.masked_fill(torch.as_tensor(mask) == 0, IGNORED)


def is_array(leaf: object) -> bool:
    """Whether ``leaf`` is a tensor, a numpy array, or what turns into one (pandas, JAX); an image is not."""
    if isinstance(leaf, (Tensor, np.ndarray)):
        return True
    named = isinstance(leaf, (np.generic, type)) or not hasattr(leaf, "shape")
    return not named and (hasattr(leaf, "to_numpy") or (hasattr(leaf, "__array__") and hasattr(leaf, "dtype")))


def are_columns(columns: Sequence[object]) -> bool:
    """Whether ``columns`` are (inputs, targets) with examples first, and no list of two rows."""
    if isinstance(columns, list) and not is_array(columns[1]):
        return False
    return all(_is_column(part) for part in columns)


def _is_column(part: object) -> bool:
    if isinstance(part, list) and part and not any(is_array(item) for item in _flat(part)):
        return all(isinstance(item, (int, float, np.generic)) for item in _flat(part))
    return all(is_array(leaf) for leaf in _flat(part))


def _flat(tree: object) -> Iterable[object]:
    if isinstance(tree, Mapping):
        tree = tree.values()
    elif not isinstance(tree, (tuple, list)):
        return [tree]
    return [leaf for item in tree for leaf in _flat(item)]


def tensors(tree: object, where: str) -> Any:
    """Numbers, arrays and lists of numbers as tensors; tuples and dictionaries stay what they are.

    Raises:
        DataError: If something in it is no plain array of numbers.
    """
    if isinstance(tree, Tensor):
        return _plain(tree, where)
    if isinstance(tree, Mapping):
        return {k: tensors(v, where) for k, v in tree.items()}
    if isinstance(tree, tuple) or (isinstance(tree, list) and any(is_array(v) for v in tree)):
        return tuple(tensors(v, where) for v in tree)
    if isinstance(tree, (bool, int, float)):
        return torch.as_tensor(np.asarray(tree))
    if not isinstance(tree, (np.generic, list)) and not is_array(tree):
        raise DataError(
            f"a {type(tree).__name__} is no tensor", where, "return tensors (for images, add transforms.ToTensor())"
        )
    return _from_numpy(tree, where)


def _plain(tensor: Tensor, where: str) -> Tensor:
    odd = [
        name
        for name, holds in (
            ("sparse", tensor.layout is not torch.strided and not tensor.is_nested),
            ("nested", tensor.is_nested),
            ("quantized", tensor.is_quantized),
            ("meta", tensor.is_meta),
        )
        if holds
    ]
    if odd:
        fix = {"sparse": "call .to_dense()", "nested": "pad it: torch.nested.to_padded_tensor"}
        raise DataError(f"a {odd[0]} tensor has no plain rows", where, fix.get(odd[0], "return its plain values"))
    if tensor.dtype in (torch.uint16, torch.uint32, torch.uint64):
        return _from_numpy(tensor.detach().cpu().numpy(), where)
    return tensor.detach()


def _from_numpy(values: object, where: str) -> Tensor:
    if np.ma.is_masked(values):
        raise DataError("a masked array has no value where it is masked", where, "fill it: array.filled(value)")
    try:
        array = values.to_numpy() if hasattr(values, "to_numpy") else np.asarray(values)
    except ValueError as error:  # lists of unequal lengths
        raise DataError(f"a {type(values).__name__} is no tensor: {error}", where, "pad to one length") from error
    array = np.asarray(array)
    if array.dtype.kind not in "biufc":
        kinds = {"O": "objects, perhaps of unequal lengths", "U": "texts", "S": "texts", "M": "dates", "m": "times"}
        raise DataError(
            f"a {type(values).__name__} holds {kinds.get(array.dtype.kind, str(array.dtype))}",
            where,
            "return numbers of one type and rows of one length: array.astype('float32')",
        )
    if array.dtype.itemsize > 8 and array.dtype.kind == "f":
        array = array.astype(np.float64)
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:  # torch can hold them and do little else
        if array.size and array.max() > np.iinfo(np.int64).max:
            raise DataError(f"a {array.dtype} holds {array.max()}", where, "return numbers below 2**63")
        array = array.astype(np.int32 if array.dtype.itemsize == 2 else np.int64)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if any(stride < 0 for stride in array.strides):
        array = array.copy()
    with one_at_a_time(), warnings.catch_warnings():
        # What is read-only stays where it is (a file that is mapped, perhaps): no example is ever written to.
        warnings.filterwarnings("ignore", "The given NumPy array is not writ")
        return torch.from_numpy(array)
