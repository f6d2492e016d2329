"""A network together with what makes its loss, as one network.

A loss may have parameters of its own (a temperature, the prototypes of a metric loss, the weights of several tasks):
they are part of the point, and stand beside the network's under ``loss.NAME``. An objective is a network that
computes its own loss: called with ready-made batches it returns the mean loss of each. Either way the names of the
network's own parameters, buffers and modules stay what they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..base.errors import DataError, UsageError
from ..data.losses import LossFunction
from ..data.objectives import Objective, halves, name_of, understood, weighed_by_count
from ..data.ready import Ready

PREFIX = "loss."


class WithLoss(nn.Module):
    """A network with a loss that is a module beside it.

    Args:
        network: The network; it is called as ever.
        loss: The loss or objective; a module is part of this one.

    Raises:
        UsageError: If the network has a part of the name ``loss``, which the parameters of the loss would share.
    """

    def __init__(self, network: nn.Module, loss: Any) -> None:
        super().__init__()
        self.network = network
        self.made_by = loss  # a module is registered by this, another callable is an attribute
        self.learned = has_parameters(loss)  # whether it has parameters of its own; also where they are held fixed
        clash = [k for k, _ in network.named_parameters() if k.startswith(PREFIX)]
        if clash and self.learned:
            raise UsageError("the network's names and the loss's are the same", clash[0], "rename that part of it")

    @property
    def loss_function(self) -> LossFunction:
        """From what this network returns to losses."""
        found: LossFunction = self.made_by
        return found

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the network returns."""
        return self.network(*args, **kwargs)

    # -- the network's names are kept -------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "loss" and "made_by" in self._modules:
                return self._modules["made_by"]
            return getattr(super().__getattr__("network"), name)

    def named_modules(
        self, memo: set[nn.Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Module]]:
        """All modules by name; this one and the network share theirs."""
        memo = set() if memo is None else memo
        if self in memo:
            return
        if remove_duplicate:
            memo.add(self)
        yield prefix, self
        yield from self.network.named_modules(memo, prefix, remove_duplicate)
        if isinstance(self.made_by, nn.Module):
            place = prefix + ("." if prefix else "") + PREFIX.rstrip(".")
            yield from self.made_by.named_modules(memo, place, remove_duplicate)

    def state_dict(self, *args: Any, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        """The network's, and the loss's under ``loss.`` where it has parameters."""
        found = self.network.state_dict(*args, destination=destination, prefix=prefix, keep_vars=keep_vars)
        if self.learned:
            self.made_by.state_dict(destination=found, prefix=prefix + PREFIX, keep_vars=keep_vars)
        return found

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Take both from what `state_dict` gave."""
        own = {k.removeprefix(PREFIX): v for k, v in state_dict.items() if self.learned and k.startswith(PREFIX)}
        if self.learned:
            self.made_by.load_state_dict(own, strict=strict, assign=assign)
        rest = {k: v for k, v in state_dict.items() if not (self.learned and k.startswith(PREFIX))}
        return self.network.load_state_dict(rest, strict=strict, assign=assign)


class WithObjective(WithLoss):
    """A network that computes its own loss: from ready-made batches to the mean loss of each, ``(batches,)``."""

    @property
    def objective(self) -> Objective:
        """What is called with the network and a batch."""
        found: Objective = self.made_by
        return found

    @property
    def loss_function(self) -> LossFunction:
        """Each batch's mean as it is, weighed by its count."""
        return weighed_by_count(name_of(self.made_by))

    def forward(self, ready: Ready, *, apart: bool = False) -> Any:
        """Mean loss of each batch, with its graph; ``apart`` what `parts` gives for each.

        Raises:
            DataError: If the objective returns something else than a loss and a count.
            UsageError: If it changes the mode of the network, or its count is another one than before.
        """
        if apart:
            return [self.parts(ready.fresh(place)) for place in range(len(ready))]
        losses, counts = [], []
        for place in range(len(ready)):
            total, count = self._of_one(ready.fresh(place))
            losses.append(total / count if count else total)
            counts.append(count)
        if ready.counts is None:
            ready.counts = counts
        differ = [(a, b) for a, b in zip(ready.counts, counts, strict=True) if not math.isclose(a, b, rel_tol=1e-5)]
        if differ:
            before, now = differ[0]
            raise UsageError(
                f"its count for one batch was {before:g} and is {now:g} at these weights or in this pass",
                name_of(self.made_by),
                "return a count that the batch alone decides; with (mean, 1) every batch weighs the same",
            )
        return torch.stack(losses)

    def parts(self, batch: Any) -> tuple[Any, Any]:
        """What the network gives for one batch, and the function from that to the sum of losses: the two halves.

        Raises:
            UsageError: If the objective has no halves.
        """
        both = halves(self.made_by)
        if both is None:
            raise UsageError(
                "outputs and their loss cannot be had apart from each other",
                f"objective {name_of(self.made_by)}",
                "use `operator='hessian'`, or give the objective two halves: output(model, batch) and loss(output, "
                "batch), which returns (sum of losses, count)",
            )
        name = name_of(self.made_by)
        return both[0](self.network, batch), lambda output: understood(both[1](output, batch), name)

    def _of_one(self, batch: Any) -> tuple[Tensor, float]:
        name, modes = name_of(self.made_by), [m.training for m in self.network.modules()]
        if callable(self.made_by):
            result = self.made_by(self.network, batch)
        else:
            output, loss = self.parts(batch)
            total, count = loss(output)
            result = total, count
        if [m.training for m in self.network.modules()] != modes:
            for module, mode in zip(self.network.modules(), modes, strict=True):
                module.training = mode
            raise UsageError(
                "it changes the mode of the network", name, "leave train() and eval() out; `mode=` decides"
            )
        total, count = understood(result, name)
        if not count and float(total.detach()):
            raise DataError(
                f"it returned a loss of {float(total.detach()):.4g} with a count of 0", name, "count what it sums"
            )
        return total, count


def has_parameters(loss: Any) -> bool:
    """Whether a loss or an objective is a module with parameters that move."""
    return isinstance(loss, nn.Module) and any(p.requires_grad for p in loss.parameters())


def plain_network(model: nn.Module) -> nn.Module:
    """The network itself, where a loss stands beside it."""
    return model.network if isinstance(model, WithLoss) else model
