"""Trace, diagonal, norm and density: exact cases, intervals that hold what they say, and shared work."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cases import dense, domain_data, oracle_4b, problem_of, small_mlp
from scipy.stats import wasserstein_distance

from landscape.curvature.estimators.density import Density, density, quadrature, run_of
from landscape.curvature.estimators.hutchinson import sample
from landscape.curvature.estimators.probes import Probes
from landscape.curvature.estimators.sketches import hutch_pp, xtrace
from landscape.curvature.hessian import hessian
from landscape.curvature.lanczos.eigenpairs import lanczos
from landscape.curvature.lanczos.subspace import Subspace
from landscape.problem.problem import Problem

from .test_lanczos import diagonal, rotated

HEADS = diagonal(100, 60, 40, 10, 5, bulk=(0, 1, 295))
MATRIX = rotated(HEADS)
TRACE = float(HEADS.sum())


def probes(seed: int = 0, matrix: torch.Tensor = MATRIX) -> Probes:
    return Probes(lambda v: matrix @ v, len(matrix), seed)


def test_constant_diagonals_are_exact():
    """Case 8: every Rademacher probe gives the trace of a diagonal matrix."""
    found = sample(probes(matrix=torch.diag(torch.full((50,), 3.0).double())), rtol=0.05, diagonal=True)
    assert found.trace.estimate == pytest.approx(150, rel=1e-14)
    assert found.trace.stderr == pytest.approx(0, abs=1e-12)
    assert found.frobenius.estimate == pytest.approx(3 * 50**0.5, rel=1e-12)
    assert found.diagonal is not None
    assert torch.allclose(found.diagonal, torch.full((50,), 3.0).double())


@pytest.mark.parametrize("deflated", [False, True])
def test_intervals_hold_what_they_say(deflated: bool):
    """95 % of 60 seeds, within what 60 can show; and the eigenpairs cut the work."""
    known = None
    if deflated:
        found = lanczos(lambda v: MATRIX @ v, 300, top=5, tol=1e-6)
        known = found.known
    hits, norms, samples = 0, 0, []
    for seed in range(60):
        s = sample(probes(seed + 1), rtol=0.1, known=known)
        hits += s.trace.interval[0] <= TRACE <= s.trace.interval[1]
        norms += s.frobenius.interval[0] <= float(MATRIX.norm()) <= s.frobenius.interval[1]
        samples.append(s.trace.samples)
        assert s.trace.stderr <= 0.1 * s.trace.estimate
    assert hits >= 51
    assert norms >= 49
    assert np.mean(samples) < (11 if deflated else 60)


@pytest.mark.parametrize("method", [hutch_pp, xtrace])
def test_sketching_estimators(method):
    errors = []
    for seed in range(40):
        found = method(lambda v: MATRIX @ v, 300, rtol=0.02, seed=seed)
        assert found.converged
        assert found.stderr <= 0.02 * found.estimate
        errors.append((found.estimate - TRACE) / found.stderr)
    assert abs(np.mean(errors)) < 0.7  # unbiased
    assert np.std(errors) < 2  # and not surer than it may be
    assert np.mean(np.abs(errors) > 3) < 0.15


def xtrace_of(omega: torch.Tensor) -> float:
    """Each sketch vector left out of the range in turn, written out with a QR of its own."""
    estimates = []
    for i in range(len(omega)):
        others = torch.cat([omega[:i], omega[i + 1 :]])
        q = torch.linalg.qr((others @ MATRIX).T)[0]
        rest = omega[i] - q @ (q.T @ omega[i])
        estimates.append(float((q.T @ MATRIX @ q).trace() + rest @ MATRIX @ rest))
    return float(np.mean(estimates))


def test_xtrace_against_its_definition():
    """And its standard error against the jackknife's definition: without each sketch vector in turn."""
    n, m = 300, 10
    omega = torch.stack([Probes(lambda v: v, n, 3).vector(i) for i in range(m)])
    found = xtrace(lambda v: MATRIX @ v, n, rtol=1e-9, seed=3, max_products=2 * m)
    assert found.samples == m
    assert found.estimate == pytest.approx(xtrace_of(omega), rel=1e-10)
    left = [xtrace_of(torch.cat([omega[:i], omega[i + 1 :]])) for i in range(m)]
    assert found.stderr == pytest.approx(((m - 1) * np.var(left)) ** 0.5, rel=1e-8)


SPECTRA = {
    "decay": torch.logspace(0, -3, 200, dtype=torch.float64),
    "flat": torch.linspace(1, 2, 200, dtype=torch.float64),
    "spikes": torch.cat([torch.tensor([50.0, 30, 20, 10, 5]), torch.linspace(0, 1, 195)]).double(),
    "indefinite": torch.linspace(-1, 2, 200, dtype=torch.float64),
}


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_intervals_of_sketches_hold_what_they_say(spectrum: str):
    """95 % of 40 seeds, within what 40 can show (35 with probability 0.99); a spread of dependent parts held 78."""
    matrix, trace = rotated(SPECTRA[spectrum]), float(SPECTRA[spectrum].sum())
    for method in (hutch_pp, xtrace):
        found = [method(lambda v: matrix @ v, 200, rtol=0.02, seed=s, max_products=60) for s in range(40)]
        assert sum(f.interval[0] <= trace <= f.interval[1] for f in found) >= 35, method.__name__


def test_low_rank_is_exact_for_sketches():
    low = rotated(torch.cat([torch.tensor([5.0, -3, 2]), torch.zeros(60)]).double())
    for method in (hutch_pp, xtrace):
        assert method(lambda v: low @ v, 63, rtol=0.01).estimate == pytest.approx(4, abs=1e-8)


def test_as_many_probes_as_rows_are_replaced_by_the_unit_vectors():
    matrix = rotated(torch.linspace(-1, 1.02, 20, dtype=torch.float64))
    found = sample(probes(matrix=matrix), rtol=1e-4, diagonal=True)
    assert found.trace.method == "exact"
    assert found.trace.estimate == pytest.approx(float(matrix.trace()), abs=1e-12)
    assert found.frobenius.estimate == pytest.approx(float(matrix.norm()), rel=1e-12)
    assert found.diagonal is not None
    assert torch.allclose(found.diagonal, matrix.diag(), atol=1e-12)


def test_a_budget_ends_it_and_says_so():
    found = sample(probes(), rtol=1e-3, max_probes=12).trace
    assert not found.converged
    assert found.samples == 12


def test_density_of_two_levels():
    """Case 9: half the spectrum at 1, half at 5."""
    matrix = rotated(torch.cat([torch.ones(100), torch.full((100,), 5.0)]).double())
    p = probes(matrix=matrix)
    found = density([run_of(p, i, 30) for i in range(4)], p.n)
    for theta, w in zip(found.nodes, found.weights, strict=True):
        assert w.sum() == pytest.approx(1, abs=1e-12)
        assert w[theta < 3].sum() == pytest.approx(0.5, abs=0.15)
    assert np.trapezoid(found.curve, found.grid) == pytest.approx(1, abs=0.02)
    assert found.negative_mass[0] == 0
    assert found.grid[found.curve.argmax()] in (pytest.approx(1, abs=0.3), pytest.approx(5, abs=0.3))


def test_density_of_an_even_spectrum_and_its_moments():
    matrix = rotated(torch.linspace(-1, 3, 400, dtype=torch.float64))
    p = probes(matrix=matrix)
    found = density([run_of(p, i, 30) for i in range(4)], p.n)
    assert p.made == 120
    inside = (found.grid > -0.5) & (found.grid < 2.5)
    assert found.curve[inside].min() > 0.5 * found.curve.max()
    mean, stderr = found.moment(1)
    assert abs(mean - 1) < 4 * stderr
    share, spread = found.negative_mass
    assert abs(share - (1 - found.sigma) / 4) < 4 * spread + 0.03  # below -sigma
    for i in range(4):  # every probe is one of the trace, exactly
        v = p.vector(i)
        assert found.weights[i] @ found.nodes[i] * 400 == pytest.approx(float(v @ matrix @ v), rel=1e-10)


def test_an_outlier_does_not_smear_the_bulk():
    p = probes(matrix=rotated(diagonal(100, bulk=(0, 1, 399))))
    found = density([run_of(p, i, 30) for i in range(4)], p.n)
    assert found.sigma <= 0.1
    theta, w = quadrature(run_of(p, 0, 30), 400)
    assert w[theta > 50].sum() == pytest.approx(1 / 400, abs=0.02)


# -- through the analysis --------------------------------------------------------------------------------------------


def test_everything_at_once_on_oracle_4b():
    model, x, y = oracle_4b()
    matrix = dense(model, x, y)[2]
    found = hessian(
        problem_of(model, (x, y), batch_size=32),
        top=5,
        bottom=2,
        tol=1e-6,
        trace=True,
        trace_rtol=0.02,
        density=True,
        diagonal=True,
        per_layer=True,
    )
    trace, norm = found["trace"], found["frobenius_norm"]
    assert abs(trace["estimate"] - 2.470240912830) <= 4 * trace["stderr"] + 1e-9
    assert abs(norm["estimate"] - 4.296560434788) <= 4 * norm["stderr"] + 1e-9
    diagonal = torch.cat([found.vectors[f"diagonal.{k}"].reshape(-1) for k, _ in model.named_parameters()])
    assert float(diagonal.sum()) == pytest.approx(trace["estimate"], rel=1e-9)
    spread = torch.cat([found.vectors[f"diagonal_stderr.{k}"].reshape(-1) for k, _ in model.named_parameters()])
    assert float((diagonal - matrix.diag()).norm()) <= 2 * float(spread.norm()) + 1e-9
    assert sum(found["density"]["weights"]) == pytest.approx(1, abs=1e-10)
    moment = found["density"]["trace"]
    assert abs(moment["estimate"] - 2.470240912830) < 4 * moment["stderr"]
    layers = found["layers"]
    assert list(layers) == ["0", "2"]
    assert sum(d["n_parameters"] for d in layers.values()) == 83
    total = sum(d["trace"]["estimate"] for d in layers.values())
    wide = 4 * sum(d["trace"]["stderr"] for d in layers.values()) + 1e-9
    assert abs(total - 2.470240912830) <= wide  # the traces of the blocks add up
    block = matrix[:56, :56]
    assert layers["0"]["eigenvalues"][0] == pytest.approx(float(torch.linalg.eigvalsh(block)[-1]), abs=1e-5)
    assert found.data["density"].dims == ("curvature",)
    assert found.data["layer_eigenvalues"].dims == ("layer", "rank")


@pytest.mark.parametrize("method", ["hutch++", "xtrace"])
def test_other_trace_estimators(method: str):
    model, x, y = oracle_4b()
    found = hessian(problem_of(model, (x, y)), top=1, trace=True, trace_method=method, trace_rtol=0.02)["trace"]
    assert found["method"] == method
    assert abs(found["estimate"] - 2.470240912830) <= 4 * found["stderr"] + 1e-8


@pytest.fixture(scope="module")
def trained() -> Problem:
    """A network whose matrix is larger than the Krylov spaces; trained, it has a few large eigenvalues."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(16, 24), torch.nn.Tanh(), torch.nn.Linear(24, 5)).double()
    x = torch.randn(120, 16, dtype=torch.float64)
    y = x[:, :5].argmax(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return problem_of(model, (x, y))


def alone(problem: Problem, seed: int) -> tuple[int, int, int]:
    """Products of the top five, of the cheapest estimate of the trace to 5 %, and of a density of 4 x 30."""
    top = hessian(problem, top=5, seed=seed)["hvp_count"]
    n = problem.n_parameters
    traces = [
        sample(Probes(problem.hvp, n, seed + 7), rtol=0.05).trace.products,
        *(method(problem.hvp, n, rtol=0.05, seed=seed).products for method in (hutch_pp, xtrace)),
    ]
    return top, min(traces), 120


def test_shared_work_is_at_most_three_fifths_of_the_parts(trained: Problem):
    found = hessian(trained, top=5, trace=True, density=True)
    assert found["hvp_count"] <= 0.6 * sum(alone(trained, 0))
    assert found["trace"]["stderr"] <= 0.05 * found["trace"]["estimate"]
    assert found["density"]["nodes_per_probe"][2:] == [30] * 2
    assert min(found["density"]["nodes_per_probe"]) >= 30  # the first two are the eigenvalue run's


def distance(found: Density, values: np.ndarray) -> float:
    """The Wasserstein-1 distance between the density's masses and the eigenvalues."""
    weights = np.concatenate(found.weights) / len(found.weights)
    return float(wasserstein_distance(np.concatenate(found.nodes), values, weights))


def test_a_shared_density_is_as_accurate_as_one_alone(trained: Problem):
    """Four runs of thirty nodes each, over seeds, against all eigenvalues."""
    n = trained.n_parameters
    matrix = torch.stack([trained.hvp(e) for e in torch.eye(n, dtype=torch.float64)])
    values = np.linalg.eigvalsh(matrix.numpy())
    shared, plain, products = [], [], []
    for seed in range(6):
        p = Probes(lambda v: matrix @ v, n, seed)
        spectrum = lanczos(p.operator, n, top=5, seed=seed, least_steps=30)
        runs = [*spectrum.runs, *(run_of(p, i, 30, spectrum.settled.subspace()) for i in (0, 1))]
        shared.append(distance(density(runs, n), values))
        products.append(spectrum.krylov_products + spectrum.check_products + p.made)
        q = Probes(lambda v: matrix @ v, n, seed + 100)
        plain.append(distance(density([run_of(q, i, 30) for i in range(4)], n), values))
    assert max(products) < 100
    assert np.mean(shared) < 1.05 * np.mean(plain)


def test_a_run_beside_known_eigenpairs_is_the_run_of_the_rest():
    """Its nodes and weights are those of the matrix without these eigenvalues, and theirs, of weight 1/n."""
    found = lanczos(lambda v: MATRIX @ v, 300, top=5, tol=1e-9)
    subspace = found.settled.subspace()
    shared = run_of(probes(3), 1, 30, subspace)
    assert shared.projected.shape == (25, 25)
    assert np.allclose(np.sort(shared.apart), [5, 10, 40, 60, 100], atol=1e-7)
    theta, w = quadrature(shared, 300)
    assert w.sum() == pytest.approx(1, abs=1e-12)
    assert w[theta > 3] == pytest.approx([1 / 300] * 5)
    g = subspace.rest(probes(3).vector(1))
    assert float(w[theta < 3] @ theta[theta < 3]) / (295 / 300) == pytest.approx(float(g @ MATRIX @ g / (g @ g)))


def test_a_subspace_splits_the_matrix_exactly():
    q = torch.linalg.qr(torch.randn(300, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))[0].T
    space, inside = Subspace(q, q @ MATRIX), q.T @ q
    rest = (torch.eye(300) - inside) @ MATRIX @ (torch.eye(300) - inside)
    known = MATRIX - rest
    assert float(space.trace()) == pytest.approx(float(known.trace()), rel=1e-12)
    assert float(space.squared_norm()) == pytest.approx(float(known.square().sum()), rel=1e-12)
    assert float(MATRIX.square().sum()) == pytest.approx(float(known.square().sum() + rest.square().sum()), rel=1e-12)
    assert torch.allclose(space.diagonal(), known.diag(), atol=1e-12)
    v = torch.randn(300, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(space.rest_image(v, MATRIX @ v), rest @ v, atol=1e-12)


def test_subsets_show_the_spread():
    data, model = domain_data((40, 40, 40)), small_mlp()
    problem = problem_of(model, data)
    found = hessian(problem, top=2, bottom=1, trace=True, subsamples=4)["subsamples"]
    assert (found["count"], found["size"]) == (4, 30)
    order = problem.examples.stratified_order(0)
    x, y = (torch.cat([d[i] for d in data.values()]) for i in range(2))
    expected = []
    for k in range(4):
        rows = np.sort(order[30 * k : 30 * (k + 1)])
        values = torch.linalg.eigvalsh(dense(model, x[rows], y[rows])[2])
        expected.append([float(values[-1]), float(values[-2])])
    assert np.allclose(found["eigenvalues"]["values"], expected, atol=2e-3)
    assert found["eigenvalues"]["mean"] == pytest.approx(np.mean(expected, 0), abs=2e-3)
    assert found["eigenvalues"]["std"] == pytest.approx(np.std(expected, 0, ddof=1), abs=2e-3)
    assert found["converged"]
