"""A network and its loss or objective put together, and what is looked at in a batch that is ready-made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..base.errors import DataError, LandscapeError, UsageError, is_the_machine
from ..data.examples import Batch, Examples
from ..data.objectives import as_objective
from ..runtime.shared_memory import refuse_shared_memory
from .with_loss import WithLoss, WithObjective, has_parameters, plain_network
from .wrappers import unwrapped

if TYPE_CHECKING:
    from .problem import Problem


def joined(network: nn.Module, loss: object, objective: object) -> nn.Module:
    """One network of a network and what makes its loss; itself where the loss needs no place beside it."""
    if isinstance(network, WithLoss):  # of another problem
        return network
    if objective is not None:
        return WithObjective(
            network, as_objective(unwrapped(objective) if isinstance(objective, nn.Module) else objective)
        )
    return WithLoss(network, loss) if has_parameters(loss) else network


def require_usable(model: nn.Module) -> None:
    """Refuse a network that has no weights yet, or weights without derivatives or with memory that others share.

    Raises:
        UsageError: Naming the first.
    """
    named = [*model.named_parameters(), *model.named_buffers()]
    lazy = [name for name, tensor in named if nn.parameter.is_lazy(tensor)]
    if lazy:
        kind = type(plain_network(model)).__name__
        raise UsageError(f"it has no weights yet: {', '.join(lazy[:5])}", kind, "pass one batch through it first")
    for name, tensor in named:
        if tensor.is_inference():  # torch builds no graph with it
            fix = "build the network outside of it (and copy its weights there), or under torch.no_grad"
            raise UsageError("it was made in torch.inference_mode and has no derivatives", name, fix)
    refuse_shared_memory(model)


def trainable_names(model: nn.Module) -> frozenset[str]:
    """Names of the parameters that an optimizer would be given."""
    return frozenset(name for name, parameter in model.named_parameters() if parameter.requires_grad)


def ready_made(data: object) -> Examples:
    """What an objective is called with.

    Raises:
        UsageError: If it was taken for pairs.
    """
    examples = Examples.of_batches(data)
    if not examples.ready_made:
        raise UsageError("these are no ready-made batches", "the data", "take them with Examples.of_batches")
    return examples


def refuse_beside_objective(objective: object, *, loss: object, batch_size: int | None, loss_over: str) -> None:
    """Refuse what an objective decides.

    Raises:
        UsageError: Naming it.
    """
    if objective is None:
        return
    if loss is not None:
        raise UsageError("a loss and an objective", "`loss=` `objective=`", "the objective is the loss: drop `loss=`")
    if batch_size is not None:
        fix = "drop it: a ready-made batch is the unit, and is neither divided nor joined with another"
        raise UsageError("an objective's batches have their sizes", "`batch_size=`", fix)
    if loss_over == "batch":
        fix = "drop it; an objective that returns (mean, 1) gives every batch the same weight"
        raise UsageError("an objective's loss is over what it counts", "`loss_over='batch'`", fix)


def counts_of(problem: Problem, batch: Batch) -> Tensor:
    """How many terms the objective counts in each of some ready-made batches, ``(n,)``.

    Raises:
        DataError: If it raises something; says in which batch.
    """
    batch.inputs.counts = None
    try:
        problem.output(batch)
    except LandscapeError:
        raise
    except Exception as error:
        if is_the_machine(error):
            raise
        raise DataError(
            f"the objective raised {type(error).__name__}: {str(error)[:300]}",
            problem.loss_name,
            "every ready-made batch has to be one that it takes; see the traceback",
        ) from error
    return torch.tensor(batch.inputs.counts, dtype=torch.float64)
