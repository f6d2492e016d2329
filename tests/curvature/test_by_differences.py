"""The whole analysis by differences: what exact products give, within the bars that are stored beside it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import domain_data, problem_of, small_mlp
from torch import Tensor, nn

from landscape.base.errors import Interrupted, NumericalError
from landscape.curvature.hessian import hessian
from landscape.curvature.lanczos.journal import Journal
from landscape.curvature.operators import operator_of
from landscape.results.identity import ingredients

KINDS = ("hessian", "ggn", "fisher", "fisher-mc", "empirical-fisher", "gradient-covariance")


@pytest.mark.parametrize("kind", KINDS)
def test_every_matrix(kind: str):
    decay = 0.1 if kind in ("hessian", "ggn") else 0.0
    exact, ours = (
        operator_of(problem_of(small_mlp(), domain_data(), batch_size=8, weight_decay=decay, product=p), kind)
        for p in ("exact", "difference")
    )
    expected = exact.dense()
    assert torch.allclose(ours.dense(), expected, atol=1e-8 * float(expected.norm()))
    assert ours.differences is not None
    v = torch.randn(ours.n, dtype=torch.float64)
    measured = ours.measure(v)
    assert measured is not None
    assert float((measured.image - expected @ v).norm()) <= measured.error
    assert exact.measure(v) is None


def test_gauss_newton_of_a_loss_without_a_second_derivative():
    """B is a difference, too: of squares, summed by an operation that has none."""

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return torch.segment_reduce(output.square().reshape(-1), "sum", lengths=torch.full((len(output),), 3))

    def plain(output: Tensor, target: Tensor) -> Tensor:
        return output.square().sum(1)

    data = domain_data()["art"]
    expected = operator_of(problem_of(small_mlp(), data, plain), "ggn").dense()
    assert torch.allclose(operator_of(problem_of(small_mlp(), data, loss), "ggn").dense(), expected, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_everything_that_an_analysis_can_be_asked(dtype: torch.dtype):
    data = {k: (x.to(dtype), y) for k, (x, y) in domain_data().items()}
    model = small_mlp().to(dtype)
    wishes: dict[str, Any] = {
        "top": 2, "bottom": 2, "trace": True, "density": True, "diagonal": True, "per_layer": True, "subsamples": 2,
    }  # fmt: skip
    found, exact = (
        hessian(problem_of(model, data, batch_size=9, product=p), per_domain=True, **wishes)
        for p in ("difference", "exact")
    )
    close = 1e-7 if dtype == torch.float64 else 2e-3
    assert exact["product"] == {"by": "exact"}
    views = ["domains", "layers"]
    for ours, theirs in [(found, exact), *((found[v][k], exact[v][k]) for v in views for k in exact[v])]:
        product = ours["product"]
        assert product["by"] == "difference"
        assert product["reason"] == "asked for"
        scale = theirs["residual_scale"]
        for name in ("eigenvalues", "smallest"):
            assert ours[name] == pytest.approx(theirs[name], abs=2e-3 * scale)
        assert ours["trace"]["estimate"] == pytest.approx(theirs["trace"]["estimate"], abs=3 * close * scale * 57)
        assert 0 < ours["trace"]["product_error"] < close * scale * 57
        assert product["relative_error"] < close
    assert found["density"]["weights"]
    assert found["subsamples"]["converged"]
    assert sum("differences of gradients (asked for)" in c for c in found["cautions"]) == 1


class _Net(nn.Module):
    """A wide layer of kinks, trained by nobody: windows in float32 contain many."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def test_kinks_are_measured_and_a_tolerance_that_they_do_not_allow_is_refused():
    torch.manual_seed(1)
    x, y = torch.randn(1000, 6), torch.arange(1000) % 3
    exact = hessian(problem_of(_Net().double(), (x.double(), y)), top=2)
    problem = problem_of(_Net(), (x, y), product="difference")
    with pytest.raises(
        NumericalError, match=r"by differences .* `tol=[0-9.e-]+`, (or )?`dtype='float64'`"
    ) as refusal:
        hessian(problem, top=2, tol=1e-5)
    named = re.search(r"`tol=([0-9.e-]+)`", str(refusal.value))
    assert named
    found = hessian(problem, top=2, tol=min(1.0, 2 * float(named[1])))
    assert all(found["converged"])
    assert found["product"]["relative_error"] > 1e-5
    assert found["product"]["reference"] == "differences in float64"
    for ours, theirs, bar in zip(
        found["eigenvalues"], exact["eigenvalues"], found["product"]["eigenvalue_errors"], strict=True
    ):
        assert abs(ours - theirs) < bar + 2e-3 * exact["residual_scale"]
    partial = hessian(problem, top=2, tol=1e-5, allow_partial=True)
    assert not all(partial["converged"])
    in_double = hessian(problem_of(_Net(), (x, y), product="difference", dtype="float64"), top=2, tol=1e-5)
    assert in_double["eigenvalues"] == pytest.approx(exact["eigenvalues"], rel=1e-3)
    assert in_double["product"]["relative_error"] < 1e-7


def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def asked(folder: Path, **options: Any) -> Any:
        problem = problem_of(small_mlp().float(), domain_data(), product="difference", batch_size=9)
        return hessian(problem, top=2, trace=True, tol=1e-4, store=folder, **options)

    whole = asked(tmp_path / "whole")
    monkeypatch.setattr("landscape.curvature.lanczos.journal._SECONDS_BETWEEN_WRITES", 0.0)
    made: list[int] = []
    keep = Journal.keep

    def stop(self: Journal, name: str, vector: Tensor, product: Tensor) -> None:
        keep(self, name, vector, product)
        made.append(1)
        if len(made) == 12:
            self.write()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "keep", stop)
        with pytest.raises(Interrupted, match="products stored"):
            asked(tmp_path / "stopped")
    again = asked(tmp_path / "stopped")
    for name in ("eigenvalues", "residuals", "trace", "hvp_count"):
        assert again[name] == whole[name]


def test_the_kind_of_products_is_part_of_the_identity():
    data = domain_data()["art"]
    auto, exact, ours = (
        ingredients(problem_of(small_mlp(), data, product=p)) for p in ("auto", "exact", "difference")
    )
    assert "product" not in auto  # so that results of before are found
    assert exact["product"] == "exact"
    assert ours["product"] == "difference"
    assert {k: v for k, v in ours.items() if k != "product"} == auto
