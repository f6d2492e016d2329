"""Going to points in weight space and looking: exactly, from the saved weights, and back again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ...base.errors import UsageError
from ...problem.evaluation import Evaluation, evaluation_from_sums
from ...problem.problem import Problem
from ...runtime.random_state import preserved_random_state
from ...weights.weights import weights_hash
from ..directions.direction import Direction, centre_of
from .accumulator import Tally
from .batchnorm import batchnorm_layers, preserved_statistics, recalibrate, running_statistics
from .stacked import Choice

Move = tuple[float, Direction]


class Evaluator:
    """Evaluates a problem anywhere; use inside `walking`, which puts everything back.

    Every point is computed from saved tensors: walking step by step adds up rounding.

    Args:
        problem: Network, loss and examples.
        policy: What happens to BatchNorm statistics: ``keep``, ``interpolate`` or ``recalibrate``.
        test: The same network with the examples of the test split, evaluated at every point as well.
        training: The same network with the examples that statistics are estimated from (``recalibrate``).
    """

    def __init__(
        self, problem: Problem, policy: str = "keep", test: Problem | None = None, training: Problem | None = None
    ) -> None:
        for name, other in (("test", test), ("training", training)):
            if other is not None and other.model is not problem.model:
                fix = "give problem.with_examples(examples): the weights of one network move"
                raise UsageError("it is a problem of another network", f"`{name}=`", fix)
        self.problem, self.policy, self.test, self.training = problem, policy, test, training
        self.tensors = problem.space.views
        self.centre = centre_of(problem)
        self.live = running_statistics(problem.model)
        self.statistics: Mapping[str, Tensor] = {}
        self.forwards = 0
        self.problems = [p for p in (problem, test) if p is not None]
        self._tallies = [Tally(p) for p in self.problems]
        self._vectors: dict[int, tuple[Direction, Tensor]] = {}
        self.choice = Choice(1, "not asked yet")
        if policy == "recalibrate" and training is None and batchnorm_layers(problem.model):
            what = "there are no examples to estimate statistics from"
            raise UsageError(what, "bn='recalibrate'", "pass training=...")

    def at(self, moves: Sequence[Move]) -> Tensor:
        """Sums of a pass at centre + Σ step · direction, ``(5, domains)``; a test split adds its columns."""
        self._go(moves)
        return self._sums()[0]

    def over(self, places: Iterable[Sequence[Move]]) -> Any:
        """The same at many places, ``(places, 5, columns)``; the device is waited for once, at the end."""
        places, many = list(places), self.choice.at_once
        if many == 1:
            return self.singly(places).cpu().numpy()
        parts = [self.stacked(places[i : i + many]) for i in range(0, len(places), many)]
        return torch.cat(parts).cpu().numpy()

    def singly(self, places: Sequence[Sequence[Move]]) -> Tensor:
        """The same, ``(places, 5, columns)`` on the device, point by point."""
        for moves in places:
            self._go(moves)
        return self._sums()

    def stacked(self, places: Sequence[Sequence[Move]]) -> Tensor:
        """The same in one pass; see `landscape.surfaces.evaluate.stacked`."""
        points = self.problem.weights.repeat(len(places), 1)
        for row, moves in zip(points, places, strict=True):
            for step, direction in moves:
                row.add_(self._flat(direction), alpha=step)
        self.forwards += len(places)
        for tally in self._tallies:
            tally.look_at(points)
        return self._sums()

    def forget(self) -> None:
        """Drop the passes whose sums were not asked for."""
        for tally in self._tallies:
            tally.forget()

    @property
    def reduced_together(self) -> bool:
        """Whether the outputs of several passes may be reduced in one go."""
        return all(tally.together for tally in self._tallies)

    @property
    def room(self) -> int:
        """How many passes can wait to be reduced."""
        return min(tally.room for tally in self._tallies)

    def at_weights(self, weights: Sequence[Tensor], statistics: Mapping[str, Tensor] | None = None) -> Tensor:
        """The same at given weights, bit for bit, under ``statistics`` where the policy asks for any."""
        torch._foreach_copy_(self.tensors, list(weights))
        if statistics is not None and self.policy != "recalibrate":
            for name, live in self.live.items():
                live.copy_(statistics[name])
        self._look()
        return self._sums()[0]

    def reset_statistics(self) -> None:
        """Give the centre's statistics back, after `at_weights` brought others."""
        for name, live in self.live.items():
            live.copy_(self.statistics[name])

    def evaluation(self, sums: Any) -> Evaluation:
        """The training half of sums as an `Evaluation`; a test split in which no target counts is refused, too."""
        names = self.problem.examples.domain_names
        sums = torch.as_tensor(sums)
        if self.test is not None:
            evaluation_from_sums(sums[:, len(names) :], self.test.examples.domain_names)
        return evaluation_from_sums(sums[:, : len(names)], names)

    def _go(self, moves: Sequence[Move]) -> None:
        torch._foreach_copy_(self.tensors, self.centre)
        for step, direction in moves:
            torch._foreach_add_(self.tensors, direction.tensors, alpha=step)
        if self.policy == "interpolate":
            self._interpolate(moves)
        self._look()

    def _flat(self, direction: Direction) -> Tensor:
        """A direction as one vector; those of the last plane are kept."""
        known = self._vectors.get(id(direction))
        if known is None or known[0] is not direction:
            known = direction, self.problem.space.flatten(direction.tensors)
            self._vectors = dict([*self._vectors.items(), (id(direction), known)][-2:])
        return known[1]

    def _look(self) -> None:
        self.forwards += 1
        if self.policy == "recalibrate" and self.training is not None and self.live:
            recalibrate(self.training)
        for tally in self._tallies:
            tally.look()

    def _sums(self) -> Tensor:
        return torch.cat([tally.sums() for tally in self._tallies], dim=2)

    def _interpolate(self, moves: Sequence[Move]) -> None:
        for name, live in self.live.items():
            live.copy_(self.statistics[name])
            for step, direction in moves:
                assert direction.statistics is not None
                live.add_(direction.statistics[name], alpha=step)


@contextmanager
def evaluating(
    problem: Problem, policy: str = "keep", test: Problem | None = None, training: Problem | None = None
) -> Iterator[Evaluator]:
    """A walker; afterwards weights, statistics, modes and random states are what they were, also after an error."""
    with (
        preserved_random_state(),
        preserved_statistics(problem.model) as statistics,
        problem.temporary_weights(),
        problem.forward_only(),
    ):
        walker = Evaluator(problem, policy, test, training)
        walker.statistics = statistics
        yield walker


def state_of(problem: Problem) -> tuple[Any, ...]:
    """Everything about the model that must be the same after a walk as before it."""
    model = problem.model
    return (
        weights_hash(model),
        tuple(m.training for m in model.modules()),
        tuple(p.requires_grad for p in model.parameters()),
        tuple(p.grad is None for p in model.parameters()),
        tuple(torch.get_rng_state().tolist()),
    )


def statistics_policy(problem: Problem, asked: str | None, between: bool) -> str:
    """The policy in force: what was asked for, else ``recalibrate`` between checkpoints and ``keep`` around one.

    A network without running statistics has none to treat: ``keep``.
    """
    if not batchnorm_layers(problem.model):
        return "keep"
    return asked or ("recalibrate" if between else "keep")
