"""What every network has to keep that is to be measured."""

from __future__ import annotations

from torch import nn

from ..data.losses import LossFunction
from ..problem.checks.derivatives import derivatives
from ..problem.problem import Problem
from .requiring import require


def check_model(model: nn.Module, data: object, loss: str | LossFunction = "cross_entropy") -> None:
    """Everything that is looked at before a number about this network is believed, at once.

    Checked: a copy computes with its own weights; two passes agree and leave nothing behind; the loss is a mean over
    the examples, whatever the micro-batches; the gradient and a Hessian product are those of the loss.

    Args:
        model: The network; it stays as it is.
        data: Some examples, as `landscape.Problem` takes them.
        loss: A registered name or a function.

    Raises:
        UsageError, DataError, NumericalError: As `landscape.Problem` says.
        AssertionError: If a derivative is not that of the loss.

    Example:
        >>> import torch
        >>> from landscape.testing import check_model
        >>> check_model(torch.nn.Linear(4, 3), (torch.randn(12, 4), torch.arange(12) % 3))
    """
    problem = Problem(model, data, loss)
    found = derivatives(problem, product=True)
    require(not found.reason, f"its derivatives could not be looked at: {found.reason}")
    for of in ("gradient", "hessian"):
        note = found.note(of)
        require(note is None, str(note))
