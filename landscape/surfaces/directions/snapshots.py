"""Other checkpoints of the same network, read when they are needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...base.errors import UsageError
from ...numerics.tensors import as_real
from ...problem.problem import Problem
from ...sharding.assembly import spread_state
from ...weights.checkpoint import read_weights
from ...weights.load_state_dict import load_into
from ...weights.weights import tensors_hash
from ..evaluate.batchnorm import running_statistics
from .direction import Direction, centre_of


@dataclass(frozen=True)
class Snapshot:
    """Weights that can be put into a problem's network.

    Attributes:
        load: Gives the weights, one tensor per parameter of the problem, complex ones as real pairs ``(..., 2)``, and
            the BatchNorm statistics by name.
        facts: What it is: ``target``, ``label``, ``step``, ``weights_hash``; strict JSON.
    """

    load: Callable[[], tuple[list[Tensor], dict[str, Tensor]]]
    facts: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(
        cls, path: Path | str, problem: Problem, facts: Mapping[str, object] | None = None, *, key: str | None = None
    ) -> Snapshot:
        """A checkpoint file of the problem's network; it is looked at now and read at every `load`.

        ``key`` says which of its networks, as `read_weights` understands it.

        Raises:
            UsageError: If there is none, or parameters outside ``params`` differ (they would have to move too).
            DataError: If it is damaged or does not fit.
        """

        def load() -> tuple[list[Tensor], dict[str, Tensor]]:
            model = problem.twin()
            state = spread_state(model) if problem.in_pieces else None
            load_into(model, read_weights(Path(path), key), path, expected=state)
            return _parts(model, problem)

        hashed = tensors_hash(read_weights(Path(path), key).tensors)
        return cls(load, {"target": str(path), "weights_hash": hashed, **(facts or {})})

    @classmethod
    def of(cls, problem: Problem, facts: Mapping[str, object] | None = None) -> Snapshot:
        """The problem's own weights."""
        weights, statistics = _parts(problem.model, problem)
        copies = [w.clone() for w in weights], {k: s.clone() for k, s in statistics.items()}
        return cls(lambda: copies, {"weights_hash": problem.weights_hash, **(facts or {})})

    def weights(self) -> list[Tensor]:
        """One tensor per parameter."""
        return self.load()[0]


def _parts(model: Any, problem: Problem) -> tuple[list[Tensor], dict[str, Tensor]]:
    named = dict(model.named_parameters())
    moving = set(problem.space.names)
    fixed = dict(problem.model.named_parameters())
    other = [n for n in named if n not in moving and not torch.equal(named[n], fixed[n])]
    if other:
        what = f"the checkpoints differ in {len(other)} parameter(s) that do not move ({other[0]}, ...)"
        raise UsageError(what, "`params=`", "drop `params=`: what lies between checkpoints needs all of them")
    weights = problem.space.whole_from_own([as_real(named[n].detach()) for n in problem.space.names])
    return weights, {k: s.detach() for k, s in running_statistics(model).items()}


def difference(problem: Problem, other: Snapshot, kind: str) -> Direction:
    """The direction from the problem's weights to ``other``: x = 1 is there.

    Raises:
        UsageError: If the two are equal.
    """
    weights, statistics = other.load()
    moved = torch._foreach_sub(weights, centre_of(problem))
    if not any(bool(t.any()) for t in moved):
        raise UsageError("the two checkpoints are equal", kind, "name another checkpoint")
    own = running_statistics(problem.model)
    change = {k: statistics[k] - own[k] for k in own}
    return Direction(kind, list(moved), facts=dict(other.facts), statistics=change)


def to_checkpoint(problem: Problem, file: str) -> Direction:
    """As `difference`, to the weights of a checkpoint file."""
    return difference(problem, Snapshot.read(file, problem), f"checkpoint:{file}")
