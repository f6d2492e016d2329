"""A weighted sum of losses of several outputs: ``{"kind": "cross_entropy", "size": (0.3, "mse")}``.

Each part is a mean over examples of its own output and target, so their sum is one, too. Where a part is a mean over
predictions (the tokens of a text), all parts have to be over the same, since a sum of means over different numbers is
no mean over the examples of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..base.errors import DataError, UsageError
from ..base.names import enumerated
from ..base.terms import Term, terms, text_of
from ..data.loss_values import example_weights, losses_or_mean, weighted_mean
from ..data.losses import LossFunction, as_loss, prediction
from ..registry import LOSSES
from ..runtime.devices import widest

_FORM = "write {'kind': 'cross_entropy', 'size': (0.3, 'mse')}, or {'ce': 1.0, 'aux': 0.3} of outputs that are losses"


def weighted(loss: Any) -> Any:
    """A loss as it is called, where it is a mapping or a text of parts; any other is itself."""
    if isinstance(loss, str) and loss not in LOSSES and (parts := terms(loss)) is not None:
        loss = {part.of: part.weight if part.name is None else (part.weight, part.name) for part in parts}
    return WeightedLosses(loss) if isinstance(loss, Mapping) else loss


class WeightedLosses(nn.ModuleDict):
    """Called with what the network returns and the targets it gives the losses of the examples, ``(n,)``, or a mean.

    A key names an output: a key of a dictionary, an attribute, or a place in a tuple. The target of a part is that of
    the same name, or where targets are no dictionary or tuple the target itself. Modules with parameters are parts of
    this one, so that these are called ``loss.NAME...`` like all parameters of a loss.

    Args:
        parts: By the name of its output a loss, its weight and a loss, or a weight alone: of an output that is a loss
            itself, or of a registered loss of that name, of the only output.

    Raises:
        UsageError: If a part is something else.
    """

    def __init__(self, parts: Mapping[Any, Any]) -> None:
        super().__init__()
        if not parts:
            raise UsageError("there is no part", "`loss=`", _FORM)
        self.calls: dict[str, LossFunction] = {}  # those without parameters
        self.parts = tuple(self._part(str(of), given) for of, given in parts.items())
        self.__name__ = text_of(self.parts)

    def _part(self, of: str, given: Any) -> Term:
        weight, loss = given if isinstance(given, (tuple, list)) and len(given) == 2 else (1.0, given)
        if isinstance(loss, (int, float)) and not isinstance(given, (tuple, list)):
            weight, loss = loss, None
        odd = isinstance(weight, bool) or not isinstance(weight, (int, float)) or isinstance(loss, (int, float))
        if odd or not torch.isfinite(torch.tensor(float(weight))):
            raise UsageError(f"{given!r} is no loss, and no weight and a loss", f"`loss=`, {of!r}", _FORM)
        if loss is None:
            return Term(of, float(weight), None)
        call = as_loss(loss)
        if isinstance(call, nn.Module) and any(p.requires_grad for p in call.parameters()):
            self[of] = call
        else:
            self.calls[of] = call
        name = loss if isinstance(loss, str) else str(getattr(loss, "__name__", type(loss).__name__))
        return Term(of, float(weight), name)

    def loss_of(self, part: Term) -> LossFunction | None:
        """What a part computes with; None where the output of its name is a loss itself."""
        own: LossFunction | None = self[part.of] if part.of in self else self.calls.get(part.of)
        return own

    @property
    def registered(self) -> bool:
        """Whether its name says all of it."""
        return all(part.name is None or part.name in LOSSES for part in self.parts)

    def computed_by(self, output: Any) -> list[str]:
        """Names of the outputs of a network that are losses themselves."""
        return [p.of for p in self.parts if p.name is None and _own(output, p.of) is not None]

    def forward(self, output: Any, target: Any) -> Tensor:
        """Losses of the examples ``(n,)``, or where a part gives only its mean the mean ``()``.

        Raises:
            DataError: If an output or a target is missing.
        """
        found = [part.weight * self._values(part, output, target) for part in self.parts]
        if all(values.ndim for values in found):
            return torch.stack(found).sum(0)
        weights = self.weights(target)
        return torch.stack([weighted_mean(v, weights) if v.ndim else v for v in found]).sum()

    def _values(self, part: Term, output: Any, target: Any) -> Tensor:
        loss, own = self.loss_of(part), _own(output, part.of)
        values: Any
        if loss is None and own is None and part.of in LOSSES:
            values = losses_or_mean(as_loss(part.of), prediction(output), target)
        elif own is None:
            raise DataError(
                f"the network returns no {part.of!r}: {_held(output)}", "the loss", "name what it returns"
            )
        else:
            values = own if loss is None else losses_or_mean(loss, own, _target(target, part.of))
        if not isinstance(values, Tensor):
            what = f"the part {part.of!r} of the loss is a {type(values).__name__}"
            raise DataError(what, "the loss", "let it be a tensor: one loss per example, (n,), or their mean, ()")
        return values if values.ndim <= 1 else values.flatten(1).mean(1)

    def weights(self, target: Any) -> Tensor | None:
        """How many predictions of each example count, ``(n,)``; None where each example is one.

        Raises:
            UsageError: If that is another number for each part.
        """
        found: list[Tensor | None] = []
        for part in self.parts:
            loss = self.loss_of(part)
            if loss is not None:
                found.append(example_weights(loss, _target(target, part.of)))
            elif part.of in LOSSES and isinstance(target, Tensor):
                found.append(example_weights(as_loss(part.of), target))
        counts = [w for w in found if w is not None]
        if not counts:
            return None
        ones = torch.ones_like(counts[0])  # of parts for which each example is one
        if all(torch.equal(widest(ones if w is None else w), widest(counts[0])) for w in found):
            return counts[0]
        raise UsageError(
            f"the parts of the loss are means over different numbers of predictions: {self.__name__}",
            "the loss",
            "let the same targets count, or name an objective of yours, which returns (sum of losses, count)",
        )


def _own(output: Any, name: str) -> Any:
    """What a structure holds under a name; None where it holds nothing of the kind."""
    if isinstance(output, Tensor):
        return None
    if isinstance(output, Mapping):
        return output.get(name, output.get(int(name)) if name.isdigit() else None)
    if name.isdigit() and isinstance(output, (tuple, list)):
        return output[int(name)] if int(name) < len(output) else None
    return getattr(output, name, None) if name.isidentifier() else None


def _target(target: Any, name: str) -> Any:
    if isinstance(target, Tensor):
        return target
    found = _own(target, name)
    if found is None:
        fix = "name outputs and targets alike, or name an objective of yours"
        raise DataError(f"there is no target {name!r}: {_held(target)}", "the targets", fix)
    return found


def _held(structure: Any) -> str:
    """What is in a structure, in words."""
    if isinstance(structure, Mapping):
        return f"there is {enumerated([str(k) for k in structure], 10)}"
    if isinstance(structure, (tuple, list)):
        names = getattr(structure, "_fields", range(len(structure)))
        return f"there is {enumerated([str(n) for n in names], 10)}"
    return f"it is a {type(structure).__name__}" if not isinstance(structure, Tensor) else "it is one tensor"
