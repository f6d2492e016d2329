from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import (
    Coordinates,
    Limited,
    assert_untouched,
    dense,
    domain_data,
    mean_cross_entropy,
    oracle_4a,
    oracle_4b,
    problem_of,
    relu_study_net,
    small_mlp,
    snapshot,
)
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import nn

from landscape.base.errors import LandscapeError, NumericalError, UsageError
from landscape.curvature.hessian import NotConverged, hessian
from landscape.problem.products import Products
from landscape.specs import HessianSpec

PRINTED = 6e-13  # the references print twelve decimals


def exact(values: list[float]):
    return pytest.approx(values, rel=0, abs=PRINTED)


def test_oracle_4a_to_the_printed_digits():
    model, x, y, _ = oracle_4a()
    assert x[0, 0].item() == exact(-0.311289554190)
    assert x.sum().item() == pytest.approx(18.800746877077, abs=2e-12)  # a sum's rounding
    assert y[:10].tolist() == [0, 2, 1, 1, 1, 0, 1, 1, 1, 1]
    assert y.bincount().tolist() == [26, 28, 16]
    assert model[0].weight[0, :3].tolist() == exact([-0.003056481713, 0.219002187252, -0.336006790400])
    assert sum(p.sum() for p in model.parameters()).item() == exact(-0.205595462816)
    problem = problem_of(model, (x, y), batch_size=32)
    found = hessian(problem, top=5, bottom=3, tol=1e-9)
    assert found["loss"] == exact(1.257592400896)
    assert found["gradient_norm"] == exact(0.410204237928)
    assert found["eigenvalues"] == exact(
        [0.652884967124, 0.462143280189, 0.346861713777, 0.339020187782, 0.297673797942]
    )
    assert found["smallest"] == exact([-0.264114197774, -0.260474774000, -0.248002658297])
    matrix = torch.stack([problem.hvp(e) for e in torch.eye(83, dtype=torch.float64)])
    assert matrix.trace().item() == exact(1.729720707770)
    assert matrix.norm().item() == exact(1.460202410437)


def test_oracle_4b_to_the_printed_digits():
    model, x, y = oracle_4b()
    assert y[:12].tolist() == [0, 1, 2, 1, 2, 1, 2, 0, 2, 0, 2, 0]
    assert y.bincount().tolist() == [23, 23, 24]
    problem = problem_of(model, (x, y), batch_size=32)
    found = hessian(problem, top=5, bottom=3, tol=1e-9)
    assert found["loss"] == exact(1.308299415105)
    assert found["gradient_norm"] == exact(0.818506399537)
    # The reference prints ...557 for the fourth; numpy's eigvalsh of the dense matrix gives ...597, as we do.
    assert found["eigenvalues"] == exact(
        [2.063020579135, 1.673249561616, 1.631980456098, 1.389616999597, 0.686576965953]
    )
    assert found["smallest"] == exact([-0.973965373175, -0.833977580508, -0.807079137929])
    ones = torch.ones(83, dtype=torch.float64)
    product = problem.hvp(ones)
    assert product[:3].tolist() == exact([0.055217276151, 0.097171941267, -0.080257415416])
    assert product.norm().item() == exact(1.370416991278)
    assert product.sum().item() == exact(-0.972838495990)
    alternating = ones.clone()
    alternating[1::2] = -1
    product = problem.hvp(alternating)
    assert (alternating @ product).item() == exact(-0.403159691187)
    assert product.square().sum().item() == pytest.approx(3.231548205, abs=6e-10)
    matrix = torch.stack([problem.hvp(e) for e in torch.eye(83, dtype=torch.float64)])
    assert matrix.trace().item() == exact(2.470240912830)
    assert matrix.norm().item() == exact(4.296560434788)
    assert matrix.diag().square().sum().item() == exact(1.351089432551)


@pytest.mark.parametrize(
    ("params", "top", "lowest", "trace"),
    [
        (r"^0\.weight", 1.956281919285, -0.829234691504, 0.672127496559),
        (r"^0\.bias", 0.211147935070, -0.119165728342, 0.038772135159),
        (r"^2\.weight", 0.621463508454, None, 1.229773509868),
        (r"^2\.bias", 0.288005506143, None, 0.529567771245),
    ],
)
def test_oracle_4b_blocks(params: str, top: float, lowest: float | None, trace: float):
    model, x, y = oracle_4b()
    problem = problem_of(model, (x, y), params=params, batch_size=32)
    found = hessian(problem, top=1, bottom=1, tol=1e-9)
    assert found["eigenvalues"] == exact([top])
    assert found["n_parameters"] == problem.n_parameters
    if lowest is not None:
        assert found["smallest"] == exact([lowest])
    identity = torch.eye(problem.n_parameters, dtype=torch.float64)
    assert sum(float(problem.hvp(e) @ e) for e in identity) == exact(trace)


def test_residuals_flags_and_vectors_against_the_dense_matrix():
    model, x, y, _ = oracle_4a()
    _, gradient, matrix = dense(model, x, y)
    found = hessian(problem_of(model, (x, y), batch_size=32), top=4, bottom=2, tol=1e-4)
    largest = torch.linalg.eigvalsh(matrix).abs().max()
    for prefix, letter, values in (("", "v", found["eigenvalues"]), ("smallest_", "s", found["smallest"])):
        for i, value in enumerate(values, 1):
            vector = torch.cat([found.vectors[f"{letter}{i}.{k}"].reshape(-1) for k, _ in model.named_parameters()])
            residual = (matrix @ vector - value * vector).norm() / largest
            assert found[f"{prefix}residuals"][i - 1] == pytest.approx(residual.item(), rel=1e-3, abs=1e-12)
            assert found[f"{prefix}converged"][i - 1] is (found[f"{prefix}residuals"][i - 1] <= 1e-4)
            assert residual <= 1e-4
    assert found["gradient_norm"] == pytest.approx(gradient.norm().item(), rel=1e-12)
    assert found["symmetry_error"] < 1e-12
    assert found["orthogonality"] < 1e-10


def test_large_network_against_eigsh():
    """Case 15: 2,410 parameters, float32 products, checked with scipy on the same operator and float64 residuals."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 10))
    x = torch.rand(200, 64)
    y = (x[:, :10] * 3).argmax(1)
    single, double = problem_of(model, (x, y)), problem_of(model, (x, y), dtype="float64")
    operator = LinearOperator(
        (2410, 2410), matvec=lambda v: double.hvp(torch.from_numpy(v.ravel().copy())).numpy(), dtype=float
    )
    reference = eigsh(operator, k=5, which="LA", tol=1e-8, return_eigenvectors=False)[::-1]
    found = hessian(single, top=5, tol=1e-4)
    assert found["n_parameters"] == 2410
    assert found["eigenvalues"] == pytest.approx(list(reference), rel=1e-4)
    assert all(found["converged"])
    vector = torch.cat([found.vectors[f"v1.{k}"].reshape(-1) for k, _ in model.named_parameters()]).double()
    value = found["eigenvalues"][0]
    assert float((double.hvp(vector) - value * vector).norm()) < 2e-4 * reference[0]
    assert found["hvp_count"] < 60


@pytest.mark.parametrize("extra", [{}, {"trace": True}, {"density": True}, {"trace": True, "density": True}])
def test_every_product_is_counted(monkeypatch: pytest.MonkeyPatch, extra: dict[str, bool]):
    calls = []
    plain = Products.__call__
    monkeypatch.setattr(Products, "__call__", lambda self, v: calls.append(1) or plain(self, v))
    found = hessian(problem_of(small_mlp(), domain_data(), batch_size=8), top=3, bottom=2, tol=1e-6, **extra)
    assert found["hvp_count"] == len(calls)
    assert 5 <= found["krylov_products"] <= found["hvp_count"] - 4 * len(extra)  # the checks ask for none


def test_domains_beside_the_whole():
    data, model = domain_data(), small_mlp()
    found = hessian(problem_of(model, data, batch_size=8), top=2, bottom=1, tol=1e-8, per_domain=True)
    counts = {"art": 9, "cartoon": 20, "photo": 13}
    for name, (x, y) in data.items():
        loss, gradient, matrix = dense(model, x, y)
        part = found["domains"][name]
        values = torch.linalg.eigvalsh(matrix)
        assert part["n"] == counts[name]
        assert part["loss"] == pytest.approx(loss, rel=1e-12)
        assert part["gradient_norm"] == pytest.approx(gradient.norm().item(), rel=1e-12)
        assert part["eigenvalues"] == pytest.approx(values.flip(0)[:2].tolist(), abs=1e-7)
        assert part["smallest"] == pytest.approx(values[:1].tolist(), abs=1e-7)
    bound = sum(n / 42 * found["domains"][k]["eigenvalues"][0] for k, n in counts.items())
    assert found["eigenvalues"][0] <= bound  # lambda_max is convex
    table = found.data["domain_eigenvalues"]
    assert table.dims == ("domain", "rank")
    assert table.sel(domain="cartoon").values.tolist() == found["domains"]["cartoon"]["eigenvalues"]


def test_a_mean_only_loss_has_the_same_spectrum():
    data, model = domain_data(), small_mlp()
    a = hessian(problem_of(model, data, batch_size=8), top=3, bottom=1, tol=1e-8)
    b = hessian(problem_of(model, data, mean_cross_entropy, batch_size=8), top=3, bottom=1, tol=1e-8)
    assert b["eigenvalues"] == pytest.approx(a["eigenvalues"], rel=1e-10)
    assert b["smallest"] == pytest.approx(a["smallest"], rel=1e-10)


def test_running_out_of_memory_changes_nothing():
    model, x, y, _ = oracle_4a()
    a = hessian(problem_of(model, (x, y)), top=3, tol=1e-8)
    b = hessian(problem_of(Limited(model, 20), (x, y)), top=3, tol=1e-8)
    assert b["eigenvalues"] == pytest.approx(a["eigenvalues"], rel=1e-10)


def test_zero_hessian_is_an_answer():
    model = nn.Linear(3, 2).double()
    data = (torch.randn(5, 3).double(), torch.zeros(5, 2).double())
    found = hessian(problem_of(model, data, lambda o, t: o.sum(1)), top=2, bottom=1)
    assert found["eigenvalues"] == [0, 0]
    assert found["residuals"] == [0, 0]
    assert found["converged"] == [True, True]
    assert any("zero operator" in note for note in found["notes"])


def test_a_saddle_says_so():
    model = Coordinates(torch.tensor([[0.5, 0.25, 0.0]], dtype=torch.float64))
    curvature = torch.tensor([2.0, -3.0, 1.0], dtype=torch.float64)
    data = (torch.zeros(4, 1).double(), torch.zeros(4).double())
    found = hessian(problem_of(model, data, lambda o, t: 0.5 * (o.square() * curvature).sum(1)), top=2, bottom=1)
    assert found["eigenvalues"] == pytest.approx([2, 1])
    assert found["smallest"] == pytest.approx([-3])
    assert found["gradient_norm"] == pytest.approx(np.hypot(1, 0.75))
    assert any(note.startswith("not a minimum: lambda_min = -3") for note in found["notes"])


def test_unused_parameters_are_listed():
    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.spare = small_mlp(), nn.Linear(2, 2).double()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x)

    found = hessian(problem_of(Spare(), domain_data()), top=1)
    assert found["unused_parameters"] == ["spare.weight", "spare.bias"]
    assert found["n_parameters"] == 57 + 6


# -- refusals --------------------------------------------------------------------------------------------------------


def test_what_did_not_converge_is_an_error_that_keeps_the_numbers():
    problem = problem_of(small_mlp(), domain_data())
    with pytest.raises(
        NotConverged, match=r"2 of 2 eigenpairs.*above 1e-09 \(after 4 products\).*`allow_partial=True`"
    ) as caught:
        hessian(problem, top=2, tol=1e-9, max_products=4)
    assert caught.value.exit_code == 4
    partial = hessian(problem, top=2, tol=1e-9, max_products=4, allow_partial=True)
    assert partial["converged"] == [False, False]
    assert partial["residuals"] == caught.value.result["residuals"]
    assert min(partial["residuals"]) > 1e-9


@pytest.mark.parametrize("products", [1, 2, 4])
def test_a_budget_smaller_than_the_wish_is_no_crash(products: int):
    with pytest.raises(LandscapeError) as caught:
        hessian(problem_of(small_mlp(), domain_data()), top=5, bottom=3, max_products=products)
    assert caught.value.exit_code in (2, 4)


@pytest.mark.parametrize("name", ["top", "bottom"])
def test_as_many_pairs_as_parameters_are_refused(name: str):
    with pytest.raises(UsageError, match=rf"{name}=57.*`{name}=`.*fewer than the 57 parameters") as caught:
        hessian(problem_of(small_mlp(), domain_data()), HessianSpec(**{name: 57}))
    assert caught.value.exit_code == 2


def test_almost_all_pairs_are_all_right():
    model = small_mlp()
    x, y = domain_data((12,))["art"]
    values = torch.linalg.eigvalsh(dense(model, x, y)[2])
    found = hessian(problem_of(model, (x, y)), top=56, bottom=56, tol=1e-6)
    assert found["eigenvalues"] == pytest.approx(values.flip(0)[:56].tolist(), abs=1e-6)
    assert found["smallest"] == pytest.approx(values[:56].tolist(), abs=1e-6)


class _HalfBlind(torch.autograd.Function):
    """A product whose backward forgets that one slope depends on the other factor: the Hessian is not symmetric."""

    @staticmethod
    def forward(ctx, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(a, b)
        return a * b

    @staticmethod
    def backward(ctx, g: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        a, b = ctx.saved_tensors
        return g * b.detach(), g * a


class Gated(nn.Module):
    """Two linear maps multiplied by a custom function."""

    def __init__(self, product: type[torch.autograd.Function]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.product = nn.Linear(5, 3).double(), nn.Linear(5, 3).double(), product

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.product.apply(self.a(x), self.b(x))


def test_products_that_are_not_symmetric_are_refused():
    with pytest.raises(NumericalError, match=r"not symmetric \(relative error") as caught:
        hessian(problem_of(Gated(_HalfBlind), domain_data(), product="exact"), top=1)
    assert caught.value.exit_code == 4


def test_wrong_products_are_differences_where_exact_ones_are_not_asked_for():
    class Plain(Gated):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.a(x) * self.b(x)

    parts = domain_data().values()
    x, y = (torch.cat([part[i] for part in parts]) for i in (0, 1))
    found = hessian(problem_of(Gated(_HalfBlind), (x, y)), top=1)
    assert found["product"]["by"] == "difference"
    assert found["product"]["reason"].startswith("the second derivative of _HalfBlind is wrong by ")
    expected = torch.linalg.eigvalsh(dense(Plain(_HalfBlind), x, y)[2])[-1]
    assert found["eigenvalues"][0] == pytest.approx(float(expected), rel=1e-5)
    assert abs(found["eigenvalues"][0] - float(expected)) < found["product"]["eigenvalue_errors"][0]


def test_a_random_forward_is_refused():
    class Always(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = small_mlp()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(F.dropout(x, 0.5, training=True))

    with pytest.raises(NumericalError, match=r"two passes .*differ by .*make it deterministic"):
        hessian(problem_of(Always(), domain_data()), top=1)


def test_the_caller_keeps_model_and_random_state():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Tanh(), nn.Linear(6, 3)).double()
    model(torch.randn(9, 5).double()).sum().backward()
    before = snapshot(model)
    hessian(problem_of(model, domain_data(), batch_size=8), top=2, bottom=1, per_domain=True)
    assert_untouched(model, before)


def test_seeds_change_the_start_only():
    model, x, y, _ = oracle_4a()
    a, b, c = (hessian(problem_of(model, (x, y)), top=2, tol=1e-6, seed=s) for s in (0, 0, 1))
    assert a["eigenvalues"] == b["eigenvalues"]
    assert a["residuals"] == b["residuals"]
    assert a["eigenvalues"] != c["eigenvalues"]
    assert a["eigenvalues"] == pytest.approx(c["eigenvalues"], abs=1e-6)


# -- a published control (reference/studies.md, C2) ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("alpha", "first", "fifth", "lowest", "norm"),
    [
        (1, 0.5832, 0.1932, -0.00457, 0.02220),
        (2, 0.5558, 0.0928, -0.00459, 0.02337),
        (5, 2.7397, 0.2541, -0.00455, 0.05325),
        (10, 10.8310, 0.9872, -0.00441, 0.10623),
    ],
)
def test_rescaling_moves_curvature_at_the_same_function(
    alpha: float, first: float, fifth: float, lowest: float, norm: float
):
    """The table does not say its training to the digit: its numbers hold roughly, ours to 1e-7."""
    model, x, y = relu_study_net(alpha)
    _, gradient, matrix = dense(model, x, y)
    values = torch.linalg.eigvalsh(matrix)
    found = hessian(problem_of(model, (x, y), batch_size=24), top=5, bottom=1, tol=1e-8)
    assert found["loss"] == pytest.approx(relu_loss(), rel=1e-12)
    assert found["eigenvalues"] == pytest.approx(values.flip(0)[:5].tolist(), abs=1e-7)
    assert found["smallest"] == pytest.approx(values[:1].tolist(), abs=1e-7)
    assert found["gradient_norm"] == pytest.approx(gradient.norm().item(), rel=1e-10)
    assert found["loss"] == pytest.approx(0.01738102, rel=0.05)
    assert found["eigenvalues"][0] == pytest.approx(first, rel=0.15)
    assert found["eigenvalues"][4] == pytest.approx(fifth, rel=0.15)
    assert found["smallest"][0] == pytest.approx(lowest, rel=0.2)
    assert found["gradient_norm"] == pytest.approx(norm, rel=0.2)


def relu_loss() -> float:
    model, x, y = relu_study_net(1)
    return F.cross_entropy(model(x), y).item()


@pytest.mark.parametrize(("scale", "share"), [(2, 0.1527 / 0.5832), (4, 0.0051 / 0.5832)])
def test_confidence_flattens_without_changing_a_prediction(scale: float, share: float):
    """Logits times t (C4): the same predictions, up to 100-fold lower curvature."""
    model, x, y = relu_study_net(1)
    plain = hessian(problem_of(model, (x, y)), top=1, tol=1e-6)
    with torch.no_grad():
        model[2].weight.mul_(scale)
        model[2].bias.mul_(scale)
    scaled = hessian(problem_of(model, (x, y)), top=1, tol=1e-6)
    assert scaled["accuracy"] == plain["accuracy"] == 1
    assert scaled["eigenvalues"][0] / plain["eigenvalues"][0] == pytest.approx(share, rel=0.6)
