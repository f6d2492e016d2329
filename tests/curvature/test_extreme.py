"""The scale of residuals is shown: an eigenvalue that exceeds all others in magnitude is said, wanted or not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cases import Coordinates, dense, domain_data, problem_of, small_mlp
from figures import made
from torch import Tensor

from landscape.curvature.hessian import hessian
from landscape.curvature.lanczos.eigenpairs import lanczos
from landscape.domainwise.domains import domains
from landscape.figures.curvature import eigenvalues
from landscape.figures.draw.style import Style
from landscape.figures.summary import summarize
from landscape.results.result import Result

N = 60
DATA = (torch.zeros(4, 1).double(), torch.zeros(4).double())


def spectrum(lowest: float) -> Tensor:
    return torch.cat([torch.tensor([lowest]), torch.linspace(-3, 5, N - 1)]).double()


def saddle(lowest: float, **options):
    values = spectrum(lowest)
    model = Coordinates(torch.linspace(-1, 1, N, dtype=torch.float64)[None])
    problem = problem_of(model, DATA, lambda o, t: 0.5 * (o.square() * values).sum(1))
    return hessian(problem, **{"top": 2, "allow_partial": True, **options})


def test_the_largest_in_magnitude_is_said_without_being_asked_for():
    found = saddle(-1232.0)
    assert found["eigenvalues"] == pytest.approx([5, 5 - 8 / 58], abs=1e-3 * 1232)  # no closer than the tolerance
    assert found["smallest"] == []
    extreme = found["largest_in_magnitude"]
    assert extreme["value"] == pytest.approx(-1232, rel=1e-6)
    assert extreme["converged"] is True
    assert found["residual_scale"] == pytest.approx(1232, rel=1e-6)
    (note,) = (n for n in found["notes"] if "not a minimum" in n)
    assert note.startswith("not a minimum: largest in magnitude is -1232, gradient norm")
    # The residuals are what they say, by hand: ‖Hv − λv‖ over the scale that is shown.
    for i, (value, residual) in enumerate(zip(found["eigenvalues"], found["residuals"], strict=True), 1):
        (v,) = (t.reshape(-1).double() for k, t in found.vectors.items() if k.startswith(f"v{i}."))
        by_hand = float(torch.linalg.vector_norm(spectrum(-1232.0) * v - value * v)) / 1232
        assert residual == pytest.approx(by_hand, rel=1e-3, abs=1e-12)


def test_an_end_that_is_lost_beside_the_other_is_told():
    """A tolerance of 0.03 of 1232 is 37: lambda_1 = 5 may then be anything, and so it is said; of 1e-5 it is not."""
    loose = saddle(-1232.0, tol=0.03)
    assert loose["converged"] == [True, True]
    bar = loose["residuals"][0] * loose["residual_scale"]
    told = [n for n in loose["notes"] if "is known to" in n]
    assert (bar > 0.1 * abs(loose["eigenvalues"][0])) == bool(told)
    assert told
    assert told[0].startswith(f"lambda_1 = {loose['eigenvalues'][0]:.3g} is known to {bar:.2g} only")
    assert not [n for n in saddle(-1232.0, tol=1e-5)["notes"] if "is known to" in n]


@pytest.mark.parametrize(
    ("lowest", "options"), [(-4.9, {}), (-1232.0, {"bottom": 1}), (-1232.0, {"operator": "ggn"})]
)
def test_nothing_more_is_shown_where_the_largest_is_shown_anyhow(lowest: float, options):
    if "operator" in options:
        found = hessian(problem_of(small_mlp(), domain_data()), top=1, **options)
        assert found["residual_scale"] == pytest.approx(found["eigenvalues"][0])
    else:
        found = saddle(lowest, **options)
        shown = [*found["eigenvalues"], *found["smallest"]]
        assert found["residual_scale"] == pytest.approx(np.abs(shown).max(), rel=1e-9)
    assert found["largest_in_magnitude"] is None


def test_a_real_network_at_its_beginning():
    """Against the dense matrix: a network is bent as much as its outputs are far from where they should be."""
    model, x = small_mlp(), domain_data()["cartoon"][0]
    y = 40 * torch.sin(x[:, :3])

    def loss(o: Tensor, t: Tensor) -> Tensor:
        return (o * t).mean(1)

    exact = np.linalg.eigvalsh(dense(model, x, y, lambda o, t: loss(o, t).mean())[2].numpy())
    sign = -1.0 if exact[-1] > -exact[0] else 1.0  # turned so that the larger end is the lower one
    found = hessian(problem_of(model, (x, y), lambda o, t: sign * loss(o, t)), top=1)
    turned = np.sort(sign * exact)
    assert found["eigenvalues"] == pytest.approx([turned[-1]], rel=1e-3)
    assert found["largest_in_magnitude"]["value"] == pytest.approx(turned[0], rel=1e-3)
    assert found["residual_scale"] == pytest.approx(-turned[0], rel=1e-3)


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("limit", [None, 12])
def test_with_and_without_kept_products_and_restarts(keep: bool, limit: int | None):
    matrix = spectrum(-1232.0)
    products: list[Tensor] = []

    def multiply(v: Tensor) -> Tensor:
        products.append(v)
        return matrix * v

    found = lanczos(multiply, N, top=1, keep_images=keep, basis_limit=limit)
    assert found.krylov_products + found.check_products == len(products)
    assert found.extreme is not None
    assert found.extreme.value == pytest.approx(-1232, rel=1e-6)
    assert found.scale == pytest.approx(1232, rel=1e-6)
    assert float(found.top.values[0]) == pytest.approx(5, abs=1.3)  # the tolerance of what is 250 times larger
    assert bool(found.top.converged[0]) == (float(found.top.residuals[0]) <= 1e-3)


def test_domains_and_layers_say_theirs():
    values = spectrum(-50.0)
    model = Coordinates(torch.linspace(-1, 1, N, dtype=torch.float64)[None])
    data = {"up": (torch.zeros(3, 1).double(), torch.ones(3).double()), "down": (DATA[0], DATA[1] - 1)}
    problem = problem_of(model, data, lambda o, t: t * 0.5 * (o.square() * values).sum(1))
    found = hessian(problem, top=1, per_domain=True, per_layer=True, allow_partial=True)
    assert found["domains"]["up"]["largest_in_magnitude"]["value"] == pytest.approx(-50, rel=1e-6)
    assert found["domains"]["down"]["largest_in_magnitude"] is None
    table = domains(problem, curvature=True)
    (note,) = (n for n in table["notes"] if "no minimum" in n)
    assert note.startswith("up is at no minimum: largest in magnitude is -50")


def test_figures_take_residuals_by_the_scale_they_are_relative_to():
    result = made.hessian("sgd", 0, top=2.0, residual=1e-3)
    plain = eigenvalues.draw([result], Style()).rows[1]
    assert plain["residual"] == pytest.approx(2e-3)
    scaled = Result("hessian", result.data, {**result.record, "residual_scale": 500.0})
    assert eigenvalues.draw([scaled], Style()).rows[1]["residual"] == pytest.approx(0.5)
    (row,) = summarize([scaled])
    assert row["lambda_max_residual"] == pytest.approx(0.25)  # of an eigenvalue of 2
