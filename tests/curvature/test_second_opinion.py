"""Other tools on the same problem, stored eigenvectors as a start, and a basis that leaves the device."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from cases import oracle_4a, problem_of

from landscape.base.errors import NumericalError, UsageError
from landscape.curvature import spectrum as view
from landscape.curvature.hessian import hessian
from landscape.problem.problem import Problem
from landscape.specs import HessianSpec

TOP = [0.652884967124, 0.462143280189, 0.346861713777]


def oracle() -> Problem:
    model, x, y, _ = oracle_4a()
    return problem_of(model, (x, y), batch_size=32)


def test_pyhessian_beside_ours_with_its_true_residual():
    theirs = hessian(oracle(), top=3, cross_check=("pyhessian",))["cross_check"]["pyhessian"]
    matrix = torch.stack([oracle().hvp(e) for e in torch.eye(83, dtype=torch.float64)])
    values = torch.linalg.eigvalsh(matrix)
    for value, residual in zip(theirs["eigenvalues"], theirs["residuals"], strict=True):
        # An eigenvalue lies within the residual, whatever the tool believes of its own answer.
        assert float((values - value).abs().min()) <= residual * float(values.abs().max())
    assert max(theirs["residuals"]) > 1e-3  # at its default tolerance of 1e-3


def test_curvlinops_beside_ours():
    pytest.importorskip("curvlinops", exc_type=ImportError)
    theirs = hessian(oracle(), top=3, cross_check=("curvlinops",))["cross_check"]["curvlinops"]
    assert theirs["eigenvalues"] == pytest.approx(TOP, abs=1e-6)
    assert max(theirs["residuals"]) < 1e-3


def test_a_tool_that_is_not_there(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "curvlinops", None)
    with pytest.raises(UsageError, match=r"curvlinops is not installed.*pip install curvlinops-for-pytorch"):
        hessian(oracle(), top=1, cross_check=("curvlinops",))
    with pytest.raises(UsageError, match="other tools are asked for the Hessian alone"):
        HessianSpec(cross_check=("pyhessian",), operator="ggn")


def test_a_warm_start_from_a_stored_result(tmp_path: Path):
    """From the vectors of the same point; a nearby one; and what does not fit is refused."""
    first = hessian(oracle(), top=3, tol=1e-8)
    path = str(first.save(tmp_path / "hessian-a.nc"))
    again = hessian(oracle(), top=3, tol=1e-6, warm_start=path)
    cold = hessian(oracle(), top=3, tol=1e-6)
    assert again["krylov_products"] < cold["krylov_products"]
    assert again["eigenvalues"] == pytest.approx(TOP, abs=1e-6)
    dense_too = hessian(oracle(), top=3, tol=1e-6, warm_start=path, trace=True, density=True)
    assert dense_too["density"]["probes"] == 4
    assert abs(dense_too["trace"]["estimate"] - 1.729720707770) <= 4 * dense_too["trace"]["stderr"] + 1e-9
    _, x, y, _ = oracle_4a()
    other = problem_of(torch.nn.Linear(6, 3).double(), (x, y))
    with pytest.raises(UsageError, match="its eigenvectors belong to other parameters"):
        hessian(other, top=1, warm_start=path)
    with pytest.raises(UsageError, match="there is no such result"):
        hessian(oracle(), top=1, warm_start=str(tmp_path / "nothing.nc"))


def test_a_result_without_vectors_starts_nothing(tmp_path: Path):
    path = str(hessian(oracle(), top=3, tol=1e-6, vectors=False).save(tmp_path / "hessian-1.nc"))
    with pytest.raises(UsageError, match=r"stored without its eigenvectors .*compute it without `vectors=False`"):
        hessian(oracle(), top=3, warm_start=path)


def test_a_basis_that_does_not_fit_moves_to_the_host_and_then_restarts(monkeypatch: pytest.MonkeyPatch):
    """The plan for a device that is not the CPU, with so much memory as is said here."""
    problem = oracle()
    row = 8 * problem.n_parameters
    monkeypatch.setattr(problem, "device", torch.device("meta"))

    def plan(device_rows: float, host_rows: float) -> tuple[str, int, bool]:
        free = {"meta": device_rows * 4 * row, "cpu": host_rows * 4 * row}
        monkeypatch.setattr(view, "free_memory", lambda device: int(free[device.type]))
        device, limit, images = view._basis_plan(problem, HessianSpec(top=5))
        return device.type, limit, images

    assert plan(1000, 1000) == ("meta", 500, True)
    assert plan(100, 1000) == ("meta", 100, False)  # fits without its products
    assert plan(20, 1000) == ("cpu", 500, True)
    assert plan(20, 10) == ("meta", 20, False)  # restarts
    monkeypatch.undo()
    small = hessian(problem, top=3, tol=1e-6, memory=24 * row * 2 / 2**30)
    assert (small["products"]["basis_limit"], small["products"]["basis_products_kept"]) == (24, False)
    assert small["eigenvalues"] == pytest.approx(TOP, abs=1e-6)


class _Detached(torch.autograd.Function):
    """t³ whose backward uses a detached tensor: its curvature is lost, and nothing but differences shows it."""

    @staticmethod
    def forward(ctx, t: torch.Tensor) -> torch.Tensor:
        ctx.slope = 3 * t.detach() ** 2
        return t**3

    @staticmethod
    def backward(ctx, g: torch.Tensor) -> torch.Tensor:
        return g * ctx.slope


class _Right(torch.autograd.Function):
    @staticmethod
    def forward(ctx, t: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(t)
        return t**3

    @staticmethod
    def backward(ctx, g: torch.Tensor) -> torch.Tensor:
        (t,) = ctx.saved_tensors
        return g * 3 * t**2


class Cubed(torch.nn.Module):
    def __init__(self, cube: type[torch.autograd.Function]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.cube = torch.nn.Linear(6, 3).double(), cube

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cube.apply(self.linear(x))


def test_custom_functions_are_held_against_differences():
    _, x, y, _ = oracle_4a()
    found = hessian(problem_of(Cubed(_Right), (x, y)), top=1)
    assert 0 < found["difference_error"] < 1e-5
    assert hessian(oracle(), top=1)["difference_error"] is None
    with pytest.raises(
        NumericalError, match=r"second derivative of _Detached is wrong by .*differences of gradients"
    ):
        hessian(problem_of(Cubed(_Detached), (x, y), product="exact"), top=1)
    instead, right = (hessian(problem_of(Cubed(cube), (x, y)), top=1, tol=1e-8) for cube in (_Detached, _Right))
    assert instead["product"]["reason"].startswith("the second derivative of _Detached is wrong by ")
    assert instead["eigenvalues"] == pytest.approx(right["eigenvalues"], rel=1e-9)
