"""No curvature product is silently wrong: each is right, worked around, by differences with the name, or refused."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import problem_of
from torch import Tensor

from landscape.base.errors import NumericalError, UsageError
from landscape.curvature.operators import CurvatureOperator
from landscape.curvature.self_checks import check_custom_functions
from landscape.problem.by_differences.either_product import EitherProducts
from landscape.problem.checks.derivatives import derivatives
from landscape.problem.problem import Problem

from .operations import LABELS, OPERATIONS, wave

# What cannot be differentiated twice, or only wrongly: what is said of it. Products are differences there.
BY_DIFFERENCES = {
    "ctc_loss": "_ctc_loss_backward has no second derivative",
    "segment_reduce": "_segment_reduce_backward has no second derivative",
    "CrossMapLRN2d": "an operation that writes into a given tensor (out=) has no second derivative",
    "custom function, once_differentiable": "_CubedOnce has no second derivative (once_differentiable)",
    "custom function, saving a detached tensor": "the second derivative of _CubedDetached is wrong",
}
# What has no gradient, changes the weights or is no mean over examples: what its refusal says, and how the
# documentation lists it.
REFUSED = {
    "BatchNorm1d without statistics": (
        "BatchNorm1d normalises by the statistics of each batch",
        "BatchNorm without running statistics",
    ),
    "special.zeta": ("zeta has no derivative", "`special.zeta`"),
    "F.embedding, max_norm": ("the forward pass writes into the weights", "`F.embedding` with `max_norm`"),
}
# What torch leaves out of a gradient without a word.
NOT_THE_SLOPE = {"special.bessel_j0"}
TOLERANCE = 1e-6
DOCUMENTATION = Path(__file__).parents[2] / "docs" / "explanation" / "products.md"
_STEP = 1e-4


def vector(problem: Problem, phase: float) -> Tensor:
    """A unit vector that leaves alone what torch never trains (the row of a padding index)."""
    v = wave(problem.n_parameters, rate=2.3, phase=phase) * (problem.gradient() != 0)
    return v / v.norm()


def difference(at: Callable[[float], Tensor]) -> Tensor:
    """Derivative at zero by central differences of fourth order; its error is below 1e-9 here."""
    near, far = at(_STEP) - at(-_STEP), at(2 * _STEP) - at(-2 * _STEP)
    return (8 * near - far) / (12 * _STEP)


class Reference:
    """The network by plain torch, without anything of ours but the copy that the problem made of it."""

    def __init__(self, problem: Problem, inputs: Tensor) -> None:
        self.model, self.inputs, self.loss = copy.deepcopy(problem.model), inputs, problem.loss_function
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.start = [p.detach().clone() for p in self.parameters]

    def _go(self, v: Tensor, step: float) -> None:
        parts = torch.split(v, [p.numel() for p in self.parameters])
        with torch.no_grad():
            for p, start, part in zip(self.parameters, self.start, parts, strict=True):
                p.copy_(start + step * part.view_as(p))

    def value(self) -> Tensor:
        return self.loss(self.model(self.inputs), LABELS).mean()

    def gradient(self, v: Tensor, step: float) -> Tensor:
        self._go(v, step)
        self.model.zero_grad()
        self.value().backward()
        grads = [torch.zeros_like(p) if p.grad is None else p.grad.to_dense() for p in self.parameters]
        self._go(v, 0.0)
        return torch.cat([g.reshape(-1) for g in grads])

    def hessian_product(self, v: Tensor) -> Tensor:
        return difference(lambda step: self.gradient(v, step))

    def gauss_newton_product(self, v: Tensor) -> Tensor:
        def outputs(step: float) -> Tensor:
            self._go(v, step)
            with torch.no_grad():
                return self.model(self.inputs)

        tangent = difference(outputs)
        self._go(v, 0.0)
        self.model.zero_grad()
        z = self.model(self.inputs)
        leaf = z.detach().requires_grad_()
        (slope,) = torch.autograd.grad(self.loss(leaf, LABELS).mean(), leaf, create_graph=True)
        (cotangent,) = torch.autograd.grad(slope, leaf, tangent)
        z.backward(cotangent)
        return torch.cat(
            [(torch.zeros_like(p) if p.grad is None else p.grad.to_dense()).reshape(-1) for p in self.parameters]
        )

    def plain_product(self, v: Tensor) -> Tensor:
        """Double backward as anybody would write it."""
        parts = [
            s.view_as(p) for s, p in zip(v.split([p.numel() for p in self.parameters]), self.parameters, strict=True)
        ]
        first = torch.autograd.grad(self.value(), self.parameters, create_graph=True, allow_unused=True)
        pairs = [(g, part) for g, part in zip(first, parts, strict=True) if g is not None and g.requires_grad]
        if not pairs:
            return torch.zeros_like(v)
        second = torch.autograd.grad(
            [g for g, _ in pairs], self.parameters, [part for _, part in pairs], allow_unused=True
        )
        return torch.cat(
            [
                (torch.zeros_like(p) if g is None else g).reshape(-1)
                for p, g in zip(self.parameters, second, strict=True)
            ]
        )


def error(found: Tensor, expected: Tensor) -> float:
    """Relative to the expected product; a NaN is as wrong as can be."""
    size = max(float(expected.norm()), 1e-3)
    return float(torch.nan_to_num((found - expected).norm() / size, nan=float("inf")))


def outcome(name: str) -> str:
    """What becomes of one operation.

    Returns:
        ``right`` (as torch has it), ``worked around`` (torch's own is missing or wrong, ours is right),
        ``by differences`` (by name, and refused by the same name where exact products are asked for), ``refused``
        or ``said`` (beside the numbers: torch gives no slope of the loss).

    Raises:
        AssertionError: If a product is wrong and nobody said so.
    """
    operation = OPERATIONS[name]
    model, inputs = operation.build()
    plain_is_right, by_differences = True, None
    for phase in (0.1, 0.7):
        try:
            problem = problem_of(model, (inputs, LABELS), operation.loss, loss_over="batch")  # targets of their own
            reference = Reference(problem, inputs)
            v = vector(problem, phase)
            found = problem.hvp(v)
        except (NumericalError, UsageError) as refusal:
            if REFUSED.get(name, ("not to be refused", ""))[0] not in refusal.what:
                raise
            return "refused"
        expected = reference.hessian_product(v)
        wrong = error(found, expected)
        assert wrong < TOLERANCE, f"{name}: silently wrong by {wrong:.1e}"
        try:
            plain_is_right = plain_is_right and error(reference.plain_product(v), expected) < TOLERANCE
        except (RuntimeError, NotImplementedError):
            plain_is_right = False
        _check_gauss_newton(name, problem, reference, v)
        if problem.precisions.reasons:
            by_differences = _check_differences(name, problem, expected, v)
    if by_differences:
        return by_differences
    check_custom_functions(problem)
    said = derivatives(problem, product=True).note("hessian")
    if name in NOT_THE_SLOPE:
        assert "the gradient is not the slope of the loss" in str(said)
        return "said"
    assert said is None, f"{name}: {said}"
    return "right" if plain_is_right else "worked around"


def _check_differences(name: str, problem: Problem, expected: Tensor, v: Tensor) -> str:
    """Products by differences say why they are, and how wrong; exact ones are refused with the same words."""
    model, inputs = OPERATIONS[name].build()
    (reason,) = set(problem.precisions.reasons.values())
    assert reason.startswith(BY_DIFFERENCES[name])
    (caution,) = problem.describe()["cautions"]
    assert reason in caution
    made = EitherProducts(problem)
    made(v)
    measured = made.measure(v)
    assert measured is not None
    assert float((measured.image - expected).norm()) <= measured.error < 1e-6
    exact = problem_of(model, (inputs, LABELS), OPERATIONS[name].loss, loss_over="batch", product="exact")

    def product() -> None:
        exact.hvp(v)
        check_custom_functions(exact)

    with pytest.raises(NumericalError) as refusal:
        product()
    assert refusal.value.what.startswith(reason.split(" by ")[0])
    return "by differences"


def _check_gauss_newton(name: str, problem: Problem, reference: Reference, v: Tensor) -> None:
    if OPERATIONS[name].loss != "cross_entropy":
        return
    found = CurvatureOperator(problem, "ggn", memory=0)(v)
    wrong = error(found, reference.gauss_newton_product(v))
    assert wrong < TOLERANCE, f"{name}: the Gauss-Newton product is silently wrong by {wrong:.1e}"


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if o.slow else n for n, o in OPERATIONS.items()]
)
def test_no_second_derivative_is_silently_wrong(name: str, record_property: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = outcome(name)
    record_property("operation", f"{name}: {found}")
    assert (found == "refused") == (name in REFUSED), found
    assert (found == "by differences") == (name in BY_DIFFERENCES), found


def test_what_has_no_exact_product_is_listed() -> None:
    listed = " ".join(DOCUMENTATION.read_text(encoding="utf-8").split())
    assert {*REFUSED, *BY_DIFFERENCES} <= set(OPERATIONS)
    assert not [words for _, words in REFUSED.values() if words not in listed]
    assert not [reason for reason in BY_DIFFERENCES.values() if reason not in listed]
    claimed = re.search(r"of (\d+) operations and layers", listed)
    assert claimed
    assert 120 <= int(claimed[1]) <= len(OPERATIONS)
