"""Operations without a second derivative: refused by name, never a silent zero."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from .errors import LandscapeError, NumericalError

_NO_SECOND_DERIVATIVE = re.compile(
    r"derivative for '?(?:aten::)?(?P<op>\w+)'?.* is not implemented"
    r"|(?P<twice>differentiate twice|does not currently support double backward|once_differentiable)"
    r"|incompatible with \.grad\(\)",
    re.S,
)
_FIX = "replace the operation in the model, or select other parameters with --params"


def second_derivative_error(error: RuntimeError) -> Exception:
    """Turn torch's complaint about a missing second derivative into one line; other errors pass unchanged."""
    match = _NO_SECOND_DERIVATIVE.search(str(error))
    if isinstance(error, LandscapeError) or not match:
        return error
    op = match["op"] or "a custom or compiled operation"
    return NumericalError(f"{op} has no second derivative", "Hessian-vector product", _FIX)


def refuse_once_differentiable(loss: Tensor) -> None:
    """Look through the graph of ``loss`` for functions whose second derivative would silently be zero.

    ``autograd.grad`` with unused inputs allowed takes the missing derivative of a ``once_differentiable``
    function for an unused parameter.

    Raises:
        NumericalError: If a custom function is marked ``once_differentiable``.
    """
    seen: set[Any] = set()
    nodes = [loss.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        custom = getattr(type(node), "_forward_cls", None)
        code = getattr(getattr(custom, "backward", None), "__code__", None)
        wrapped = code is not None and code.co_filename == torch.autograd.function.__file__
        if custom is not None and wrapped:
            what = f"{custom.__name__} has no second derivative (once_differentiable)"
            raise NumericalError(what, "Hessian-vector product", _FIX)
        nodes += [n for n, _ in node.next_functions]
