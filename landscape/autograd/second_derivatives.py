"""Operations without a second derivative: said by name, never a silent zero."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from ..base.errors import LandscapeError, NumericalError

_NO_SECOND_DERIVATIVE = re.compile(
    r"derivative for '?(?:aten::)?(?P<op>\w+)'?.* is not implemented"
    r"|(?P<twice>differentiate twice|once_differentiable)"
    r"|(?P<compiled>does not currently support double backward)"
    r"|(?P<out>functions with out=\.\.\. arguments)"
    r"|(?P<complex>\w+) does not support automatic differentiation for outputs with complex dtype",
    re.S,
)
_HOOK = nn.modules._functions.BackwardHookFunction  # where a module has a backward hook; the identity otherwise
_FIX = "replace the operation in the model, or select other parameters with `params=`"
_DIFFERENCES = "let products be differences of gradients with `product='auto'` or `product='difference'`"


class NoSecondDerivative(NumericalError):
    """There is no product by double backward, or none that is right; ``what`` says why, by name."""


def missing_derivative(error: Exception, wanted: str = "curvature product") -> Exception:
    """Turn torch's complaint about a missing derivative into one line; other errors pass unchanged."""
    match = _NO_SECOND_DERIVATIVE.search(str(error))
    if isinstance(error, LandscapeError) or not match:
        return error
    if match["out"]:
        op, fix = "an operation that writes into a given tensor (out=)", _FIX
    elif match["compiled"]:
        op, fix = "a compiled function", "give the module without torch.compile"
    elif match["complex"]:
        return NumericalError(f"{match['complex']} of complex numbers has no derivative in torch", wanted, _FIX)
    else:
        op, fix = match["op"] or "a custom operation", _FIX
    if wanted == "curvature product":
        return NoSecondDerivative(f"{op} has no second derivative", wanted, _DIFFERENCES)
    return NumericalError(f"{op} has no derivative", wanted, fix)


def refuse_batch_statistics(model: nn.Module) -> None:
    """Refuse BatchNorm without running statistics: in eval mode, too, it takes those of each batch.

    The loss of an example would depend on its neighbours, and every mean over examples on the micro-batches.

    Raises:
        NumericalError: Naming the layer.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
            raise NumericalError(
                f"{type(module).__name__} normalises by the statistics of each batch, also in eval mode",
                f"layer {name}" if name else "the model",
                "build it with track_running_stats=True",
            )


def custom_functions(loss: Tensor) -> tuple[str, ...]:
    """Names of the custom autograd functions in the graph of ``loss``.

    Their second derivative is whatever their authors made of it: a tensor saved detached loses its part of the
    Hessian silently, and symmetrically.

    Raises:
        NoSecondDerivative: If one is marked ``once_differentiable``: ``autograd.grad`` with unused inputs allowed
            takes its missing derivative for an unused parameter, which would be a silent zero.
    """
    found = set()
    seen: set[Any] = set()
    nodes = [loss.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        custom = getattr(type(node), "_forward_cls", None)
        if custom is not None and custom is not _HOOK and not custom.__module__.startswith("landscape."):
            found.add(custom.__name__)
            code = getattr(getattr(custom, "backward", None), "__code__", None)
            if code is not None and code.co_filename == torch.autograd.function.__file__:
                what = f"{custom.__name__} has no second derivative (once_differentiable)"
                raise NoSecondDerivative(what, "curvature product", _DIFFERENCES)
        nodes += [n for n, _ in node.next_functions]
    return tuple(sorted(found))
