"""Products of curvature matrices by central differences, each with how wrong it is.

∇²L v is the derivative of the gradient along v: (∇L(w + hv) − ∇L(w − hv)) / 2h. It takes two gradients and nothing
that gradients do not have, so it exists where autograd knows no second derivative. It is no exact product: the error
is measured, on the first vectors and on those that are reported, by a second step and, for a network in float32, by
differences in float64, which see what no step in float32 can: kinks (of a ReLU, say) that every window contains.

A kink that only some windows contain puts a jump of the gradient, divided by 2h, into a product. Of these products
‖∇L(w + hv) + ∇L(w − hv) − 2 ∇L(w)‖ / 2h, the bend, is as large as the error, at no further cost: where it exceeds
what was seen on measured vectors, the product is made again with other steps.
"""

from __future__ import annotations

import copy as shallow
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ...autograd.second_derivatives import missing_derivative
from ...base.errors import LandscapeError
from ...numerics.steps import SAFETY, Settled, settle, step_towards
from ...sharding.vectors import own_part
from ..checks.local_loss import elsewhere, too_large
from ..passes import refuse_autocast

if TYPE_CHECKING:
    from ..problem import Problem

_START = {torch.float64: 6e-6, torch.float32: 5e-3}  # relative to the weights: eps^(1/3) balances h² and eps / h
_SUSPICIOUS = {torch.float64: 1e-5, torch.float32: 1e-2}  # relative: of smooth functions steps agree more closely
_VECTORS = 6  # as long as the weights, in float64, that a measurement holds
_BENT = 8.0  # times the largest bend of a measured vector
_GOOD = 2.0  # times the least error that is known: no better step is looked for


class Bent(NamedTuple):
    """A difference quotient ``(n,)``, float64, and its bend (see above); None where it was not asked for."""

    value: Tensor
    bend: float | None


class Quotient(Protocol):
    """Makes difference quotients at the present weights of a problem, for unit vectors ``(n,)`` in float64."""

    def __call__(self, problem: Problem, unit: Tensor, step: float, *, bend: bool = False) -> Bent:
        """The quotient of one step."""


@dataclass(frozen=True)
class Measured:
    """A product, and how wrong it and products made like it are.

    Attributes:
        image: The product ``(n,)``, float64, the best there is.
        error: Bar of ‖image − the exact product‖.
        usual: Bar of the same for a product of this vector as all others are made: in the problem's type, with the
            usual step.
    """

    image: Tensor
    error: float
    usual: float


@dataclass
class Precision:
    """How wrong the products were that were measured, for vectors of length one.

    Attributes:
        reason: Why there are no exact ones.
        error: The largest bar.
        largest: The longest product: a lower bound of |λ_max|, and close to it once a Krylov space was begun.
        first: The bar of the first, a random vector, relative to its own product.
        measured: How many.
        reference: What told.
        blind: Whether that sees kinks only where some step leaves them out.
    """

    reason: str
    error: float = 0.0
    largest: float = 0.0
    first: float = 0.0
    measured: int = 0
    reference: str = "a second step"
    blind: bool = False

    @property
    def relative(self) -> float:
        """The largest bar relative to the largest curvature."""
        return self.error / self.largest if self.largest else float(self.error > 0)

    def sentence(self) -> str:
        """What a reader should know."""
        found = "not measured"
        if self.measured:
            found = f"off by up to {self.relative:.1e} of the largest curvature, measured by {self.reference}"
            if self.blind:
                found += "; kinks that all steps average over are not seen"
        return f"curvature products are differences of gradients ({self.reason}): {found}"


class Precisions:
    """What is known of a network's products by differences, by all that share it.

    Attributes:
        reasons: Why there are no exact ones, by the name of the matrix and the parameters.
    """

    def __init__(self) -> None:
        self.reasons: dict[tuple[str, str | None], str] = {}
        self._found: list[Precision] = []

    def new(self, reason: str) -> Precision:
        """What is to be filled with measurements."""
        self._found.append(Precision(reason))
        return self._found[-1]

    def sentences(self) -> list[str]:
        """What a reader should know: a sentence for each reason, with the largest error."""
        worst: dict[str, Precision] = {}
        for p in self._found:
            if p.measured and (p.reason not in worst or p.relative > worst[p.reason].relative):
                worst[p.reason] = p
        return [p.sentence() for p in worst.values()]


class OfGradients:
    """Quotients of the gradient of the mean loss: products with its Hessian. Sums over micro-batches are float64."""

    def __init__(self) -> None:
        self._here: dict[torch.dtype, tuple[Tensor, Tensor]] = {}  # weights, and the gradient there

    def __call__(self, problem: Problem, unit: Tensor, step: float, *, bend: bool = False) -> Bent:
        """The quotient of one step: two gradients, and once a third for the bends."""
        middle = self._middle(problem) if bend else None
        with at_distance(problem, unit) as go, torch.enable_grad():
            go(step)
            ahead = _gradient(problem)
            go(-step)
            behind = _gradient(problem)
        bent = None if middle is None else float(torch.linalg.vector_norm(ahead + behind - 2 * middle)) / (2 * step)
        return Bent((ahead - behind) / (2 * step), bent)

    def _middle(self, problem: Problem) -> Tensor:
        here = problem.space.current()
        known = self._here.get(here.dtype)
        if known is None or not torch.equal(known[0], here):
            with torch.enable_grad():
                known = self._here[here.dtype] = here, _gradient(problem)
        return known[1]


def _gradient(problem: Problem) -> Tensor:
    found = problem._sum(lambda batch: [problem._flat_gradient(problem.batch_sum(batch)).double()])
    return found[0] / problem.total_weight


@contextmanager
def at_distance(problem: Problem, unit: Tensor) -> Iterator[Callable[[float], None]]:
    """Let the weights go along a vector; afterwards they are what they were, bit for bit.

    Yields:
        From a distance to nothing: the weights are then the present ones plus distance · vector, rounded once.
    """
    here = problem.space.current()
    centre = here.double()
    try:
        yield lambda distance: problem.space.write(torch.add(centre, unit, alpha=distance))
    finally:
        problem.space.write(here)


class Differences:
    """Products with a curvature matrix by differences.

    The first vector is measured, and with it the step is chosen that all take.

    Args:
        problem: Network, loss and examples.
        quotient: Of what.
        precision: Receives what was measured.

    Attributes:
        quotients: How many were made, of two gradients each (for Gauss-Newton matrices of one, and two forward
            passes).
    """

    def __init__(self, problem: Problem, quotient: Quotient, precision: Precision) -> None:
        self.problem, self.quotient, self.precision = problem, quotient, precision
        self.quotients = 0
        self._steps: dict[torch.dtype, float] = {}
        self._levels: dict[torch.dtype, float] = {}
        self._bend = 0.0
        self._double: bool | None = None  # whether the network runs in float64 as well
        self._facts: dict[str, float] = {}

    def __call__(self, vector: Tensor) -> Tensor:
        """The product with ``vector`` ``(n,)``, in the problem's type; not checked for finiteness.

        Raises:
            NumericalError: If an operation has no first derivative either.
        """
        refuse_autocast(self.problem.device)
        dtype = self.problem.dtype
        if not self.calibrated:
            return self.calibrate(vector).to(dtype)
        unit, length = self._unit(vector)
        if not length:
            return torch.zeros_like(unit, dtype=dtype)
        value, bend = self._quotient(self.problem, unit, self._steps[dtype], bend=True)
        if bend is not None and not bend <= _BENT * self._bend:
            return self.measure(vector).image.to(dtype)
        return (value * length).to(dtype)

    @property
    def calibrated(self) -> bool:
        """Whether the step is chosen."""
        return self.problem.dtype in self._steps

    def calibrate(self, vector: Tensor) -> Tensor:
        """Choose the step: by this vector and by two steps of a power iteration from it; only once.

        Where Krylov spaces go the function bends more than along a vector at random. Nothing that later products
        depend on is learned afterwards.

        Returns:
            The product with ``vector``, float64.
        """
        first = image = self.measure(vector, learn=True).image
        for _ in range(2):
            if not bool(image.any()):
                break
            image = self.measure(image / torch.linalg.vector_norm(image), learn=True).image
        return first

    def measure(self, vector: Tensor, *, learn: bool = False) -> Measured:
        """The product with ``vector``, as well as it can be made, and how wrong it is.

        Args:
            vector: ``(n,)``.
            learn: Let the step that later products take become the best one for this vector, if that is shorter.
        """
        unit, length = self._unit(vector)
        if not length:
            return Measured(torch.zeros_like(unit), 0.0, 0.0)
        dtype, learn = self.problem.dtype, learn or not self.calibrated
        if dtype != torch.float64 and self._runs_in_double():
            with in_float64(self.problem) as double:
                found = self._settled(double, unit)
        else:
            found = self._settled(self.problem, unit)
            if learn:
                self._shorten(dtype, found.step)
        if dtype not in self._steps:
            self._look_for_step(unit, found.value)
        first = self._usual(unit, found.value)
        if learn and first.distance > _GOOD * self._levels.get(dtype, 0.0):
            self._look_for_step(unit, found.value)
            first = self._usual(unit, found.value)
        if learn:  # and never later: a run that goes on from stored products does what an unbroken one did
            self._bend = max(self._bend, first.bend)
        usual = SAFETY * first.distance + found.error
        if learn or first.bend <= _BENT * self._bend:  # else it would not have been taken
            self._remember(usual, float(torch.linalg.vector_norm(found.value)))
        return Measured(found.value * length, found.error * length, usual * length)

    def facts(self) -> dict[str, Any]:
        """What was found, for the record."""
        return {
            "by": "difference",
            "reason": self.precision.reason,
            "relative_error": self.precision.relative,
            "error": self.precision.error,
            "measured": self.precision.measured,
            "reference": self.precision.reference,
            "step": self._steps.get(self.problem.dtype),
            **self._facts,
            "quotients": self.quotients,
        }

    def _unit(self, vector: Tensor) -> tuple[Tensor, float]:
        given = vector.to(self.problem.device, torch.float64)
        length = float(torch.linalg.vector_norm(given))
        return (given / length if length else given), length

    def _quotient(self, problem: Problem, unit: Tensor, step: float, *, bend: bool = False) -> Bent:
        self.quotients += 1
        try:
            return self.quotient(problem, unit, step, bend=bend)
        except RuntimeError as error:
            raise missing_derivative(error, "gradient") from error

    def _values(self, problem: Problem, unit: Tensor) -> Callable[[float], Tensor]:
        return lambda step: self._quotient(problem, unit, step).value

    def _start(self, problem: Problem) -> float:
        if problem.dtype in self._steps:
            return self._steps[problem.dtype]
        size = float(torch.linalg.vector_norm(problem.space.current().double()))
        return _START.get(problem.dtype, _START[torch.float32]) * (size or 1.0)

    def _settled(self, problem: Problem, unit: Tensor) -> Settled:
        """By what steps say of each other."""
        dtype = problem.dtype
        found = settle(
            self._values(problem, unit),
            self._start(problem),
            good=_GOOD * self._levels.get(dtype, 0.0),
            suspicious=_SUSPICIOUS.get(dtype, math.inf),
        )
        self._steps.setdefault(dtype, found.step)
        self._levels.setdefault(dtype, found.error / SAFETY)
        if problem is self.problem:
            self._facts = {"noise": found.noise, "truncation": found.truncation}
        return found

    def _look_for_step(self, unit: Tensor, truth: Tensor) -> None:
        """Take the step that is best for this vector in the problem's own type, if it is shorter than the present."""
        problem, dtype = self.problem, self.problem.dtype
        found = step_towards(
            self._values(problem, unit),
            self._start(problem),
            truth,
            suspicious=_SUSPICIOUS.get(dtype, math.inf),
        )
        self._shorten(dtype, found.step)
        self._levels[dtype] = max(found.distance, self._levels.get(dtype, 0.0))
        self._facts = {"noise": found.noise, "truncation": found.truncation}

    def _shorten(self, dtype: torch.dtype, step: float) -> None:
        self._steps[dtype] = min(step, self._steps.get(dtype, step))

    def _usual(self, unit: Tensor, truth: Tensor) -> _Usual:
        value, bend = self._quotient(self.problem, unit, self._steps[self.problem.dtype], bend=True)
        assert bend is not None
        return _Usual(float(torch.linalg.vector_norm(value - truth)), bend)

    def _runs_in_double(self) -> bool:
        if self._double is None:
            self._double = _runs_in_double(self.problem)
            self.precision.blind = not self._double
            if self._double:
                self.precision.reference = "differences in float64"
        return self._double

    def _remember(self, usual: float, size: float) -> None:
        p = self.precision
        if not p.measured:
            p.first = usual / size if size else 0.0
        p.error, p.largest, p.measured = max(p.error, usual), max(p.largest, size), p.measured + 1


class _Usual(NamedTuple):
    distance: float
    bend: float


@contextmanager
def in_float64(problem: Problem) -> Iterator[Problem]:
    """The same problem in float64: the network itself is cast so long, and comes back bit for bit."""
    with elsewhere(problem.model, torch.float64):
        other = shallow.copy(problem)
        other.dtype, other._batches = torch.float64, None
        yield other


def _runs_in_double(problem: Problem) -> bool:
    """Whether differences can be taken in float64, of the same function."""
    if problem.replay_seed is not None:  # random numbers of another type are others
        return False
    if too_large(problem, _VECTORS * own_part(problem.weights).numel() * 8):
        return False
    try:
        with in_float64(problem) as double, torch.enable_grad():
            double._flat_gradient(double.batch_sum(double.head(2)))
    except LandscapeError:
        raise
    except Exception:  # whatever somebody's forward raises in another type than its own
        return False
    return True
