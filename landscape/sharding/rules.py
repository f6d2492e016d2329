"""What spread tensors of both kinds share: how an operation finds its rule, and sums that make processes agree."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..base.errors import UsageError
from ..runtime.distributed import reduce_everywhere_

Rule = Callable[[Any, Any, Any], Any]
"""From an operation of torch, its arguments and keywords to its result."""


def rule_for(func: Any, rules: Mapping[Any, Rule], entrywise: Rule, what: str) -> Rule:
    """The rule of an operation: its own, or that of everything that computes entry by entry.

    Args:
        func: The operation.
        rules: Those that have one.
        entrywise: The other.
        what: What is spread over processes, for the message.

    Raises:
        UsageError: If it has none, by name.
    """
    rule = rules.get(func)
    if rule is None and torch.Tag.pointwise in func.tags:
        rule = entrywise
    if rule is None:
        said = f"{func.name().removeprefix('aten::')} is not known for {what} that are spread over processes"
        raise UsageError(said, "the sharded model", "gather the model in one process for this")
    return rule


def flat(values: Any) -> Iterator[Any]:
    """Arguments of an operation, also those in lists."""
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from flat(value)
        else:
            yield value


def everywhere(found: Tensor, operation: str = "SUM") -> Tensor:
    """The sum, or another reduction, over processes of what each has."""
    found = found.contiguous()
    reduce_everywhere_(found, operation)
    return found


def all_of(own: Tensor) -> Tensor:
    """Whether all entries of all processes are true, shape ``()``."""
    return everywhere((~own.bool()).sum()) == 0


def any_of(own: Tensor) -> Tensor:
    """Whether any entry of any process is, shape ``()``."""
    return everywhere(own.bool().sum()) > 0


def extreme_of(own: Tensor, *, smallest: bool) -> Tensor:
    """The largest or smallest entry of all processes, shape ``()``; a process may have none."""
    sign = -1 if smallest else 1
    least = torch.finfo(own.dtype).min
    found = (own * sign).max() if own.numel() else torch.full((), least, dtype=own.dtype, device=own.device)
    return everywhere(found.clone(), "MAX") * sign
