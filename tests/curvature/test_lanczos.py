from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from landscape.curvature.lanczos.eigenpairs import Spectrum, lanczos


def diagonal(*heads: float, bulk: tuple[float, float, int] = (0, 1, 2000)) -> Tensor:
    return torch.cat([torch.tensor(heads, dtype=torch.float64), torch.linspace(*bulk, dtype=torch.float64)])


def rotated(d: Tensor, seed: int = 0) -> Tensor:
    """A dense symmetric matrix with the eigenvalues ``d``."""
    q = torch.linalg.qr(
        torch.randn(len(d), len(d), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    )[0]
    matrix = (q * d) @ q.T
    return (matrix + matrix.T) / 2


def run(d: Tensor, dtype: torch.dtype = torch.float64, **options) -> Spectrum:
    d = d.to(dtype)
    return lanczos(lambda v: d * v.to(dtype), len(d), **options)


def check_pairs(matrix: Tensor, found: Spectrum, tol: float, rounding: float = 1e-12) -> None:
    """Residuals recomputed with the dense matrix; flags, units, signs and orthogonality."""
    largest = float(torch.linalg.eigvalsh(matrix).abs().max())
    for pairs in (found.top, found.bottom):
        for value, vector, residual, flag in zip(
            pairs.values, pairs.vectors, pairs.residuals, pairs.converged, strict=True
        ):
            true = float((matrix @ vector - value * vector).norm())
            assert float(vector.norm()) == pytest.approx(1, abs=1e-12)
            assert float(vector[vector.abs().argmax()]) > 0
            assert true <= float(residual) * largest + rounding * max(
                largest, 1
            )  # never a residual kinder than the truth
            if flag:
                assert true <= tol * largest + 1e-12
    assert bool((found.top.values.diff() <= 0).all())
    assert bool((found.bottom.values.diff() >= 0).all())


# -- oracle cases 5-7 and multiplicity (reference/curvature.md) --------------------------------------------------


@pytest.mark.parametrize(
    ("products", "block"), [(10, 1), (50, 1), (51, 1), (100, 1), (16, 2), (50, 2), (52, 2), (100, 2), (51, 3)]
)
def test_no_ghosts_at_any_krylov_size(products: int, block: int):
    """Case 5, float32. The bulk's smallest value is hard to find, so the space grows to exactly this size."""
    d = diagonal(100, 60, 40, 25, 15)
    found = run(d, torch.float32, top=5, bottom=1, tol=1e-9, max_products=products, block=block)
    assert found.krylov_products == products
    assert found.top.values.tolist() == pytest.approx([100, 60, 40, 25, 15], rel=1e-5)
    assert found.orthogonality < 1e-6
    check_pairs(torch.diag(d), found, 1e-6, rounding=1e-7)


def test_estimates_below_the_accuracy_of_the_products_convince_nobody():
    """Dense float32 products cannot show residuals of 1e-9, whatever the recursion says."""
    matrix = rotated(diagonal(100, 60, 40, 25, 15, bulk=(0, 1, 60))).float()
    found = lanczos(lambda v: matrix @ v.float(), 65, top=3, tol=1e-9, max_products=40)
    assert not found.top.converged.any()
    assert bool((found.top.residuals > 1e-9).all())
    assert found.top.values.tolist() == pytest.approx([100, 60, 40], rel=1e-5)


def test_full_reorthogonalisation_needs_few_products():
    """Case 5 again: about 10 products reach 1e-6 from one start vector."""
    for block, most in ((1, 12), (2, 16)):
        found = run(diagonal(100, 60, 40, 25, 15), torch.float32, top=5, tol=1e-6, block=block)
        assert found.top.converged.all()
        assert found.krylov_products <= most
    assert found.top.values.tolist() == pytest.approx([100, 60, 40, 25, 15], rel=1e-5)


def test_plus_and_minus_pairs():
    """Case 6: power iteration returns 0.7507 and -0.7447 here."""
    found = run(diagonal(1, -0.99, bulk=(0, 0.3, 500)), top=1, bottom=1, tol=1e-6)
    assert found.top.values.tolist() == pytest.approx([1], abs=1e-10)
    assert found.bottom.values.tolist() == pytest.approx([-0.99], abs=1e-10)
    assert found.top.converged.all()
    assert found.bottom.converged.all()
    assert found.krylov_products <= 20


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("tol", "most"), [(1e-3, 30), (1e-6, 36)])
def test_close_eigenvalues(seed: int, tol: float, most: int):
    """Case 7."""
    d = diagonal(1, 0.98, 0.96, 0.94, 0.92, bulk=(0, 0.5, 500))
    found = run(d, top=5, tol=tol, seed=seed)
    assert found.top.converged.all()
    assert found.top.values.tolist() == pytest.approx([1, 0.98, 0.96, 0.94, 0.92], abs=tol)
    check_pairs(torch.diag(d), found, tol)
    assert found.krylov_products <= most


@pytest.mark.parametrize("tol", [1e-2, 1e-3, 1e-6])
@pytest.mark.parametrize("block", [1, 2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_copies_that_one_start_vector_cannot_see(seed: int, tol: float, block: int):
    """{5, 5, 5, 3, 2} + bulk with k = 3: plain Lanczos returns 5, 3, 2 with small residuals, every time."""
    d = diagonal(5, 5, 5, 3, 2)
    found = run(d, top=3, tol=tol, seed=seed, block=block)
    assert found.top.values.tolist() == pytest.approx([5, 5, 5], abs=5 * tol)
    assert found.missed == 3 - block
    assert found.orthogonality < 1e-8
    check_pairs(torch.diag(d), found, tol)
    assert found.top.converged.all()


def test_copies_at_the_lower_end():
    d = -diagonal(5, 5, 5, 3, 2)
    found = run(d, top=1, bottom=3, tol=1e-6)
    assert found.bottom.values.tolist() == pytest.approx([-5, -5, -5], abs=1e-6)
    assert found.top.values.tolist() == pytest.approx([0], abs=1e-4)
    check_pairs(torch.diag(d), found, 1e-6)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n", [6, 12, 200])
def test_algebraically_largest_never_the_largest_magnitude(n: int, seed: int):
    """{5, 5, 5, -7, 0, ...}: 5, 5, 5, 0."""
    d = torch.zeros(n, dtype=torch.float64)
    d[:4] = torch.tensor([5.0, 5, 5, -7])
    found = run(d, top=4, bottom=1, tol=1e-6, seed=seed)
    assert found.top.values.tolist() == pytest.approx([5, 5, 5, 0], abs=1e-5)
    assert found.bottom.values.tolist() == pytest.approx([-7], abs=1e-5)
    check_pairs(torch.diag(d), found, 1e-6)
    assert found.orthogonality < 1e-6


@pytest.mark.parametrize("n", [1, 2, 50])
def test_zero_operator(n: int):
    found = run(torch.zeros(n, dtype=torch.float64), top=1, bottom=1, tol=1e-6)
    assert found.top.values.tolist() == [0]
    assert found.bottom.values.tolist() == [0]
    assert found.top.residuals.tolist() == [0]
    assert found.top.converged.tolist() == [True]


def test_identity():
    found = run(torch.full((40,), 3.0, dtype=torch.float64), top=4, bottom=2, tol=1e-9)
    assert found.top.values.tolist() == pytest.approx([3] * 4, rel=1e-12)
    assert found.bottom.values.tolist() == pytest.approx([3] * 2, rel=1e-12)
    assert found.orthogonality < 1e-10  # 40 dimensions hold six different vectors


def test_antisymmetric_directions_are_seen():
    """Two units that do the same make an eigenvector (1, -1): a start of equal signs is blind to it."""
    matrix = torch.diag(torch.linspace(0, 1, 30, dtype=torch.float64))
    matrix[:2, :2] = torch.tensor([[2.0, -2.0], [-2.0, 2.0]])
    for seed in range(8):
        found = lanczos(lambda v: matrix @ v, 30, top=1, tol=1e-6, seed=seed)
        assert found.top.values.tolist() == pytest.approx([4], abs=1e-5), seed


# -- random matrices -----------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(2, 40),
    kind=st.sampled_from(["gaussian", "low rank", "clustered", "indefinite ends", "integer"]),
    scale=st.sampled_from([1e-8, 1.0, 1e8]),
    top=st.integers(1, 4),
    bottom=st.integers(0, 3),
    tol=st.sampled_from([1e-2, 1e-4, 1e-8]),
    seed=st.integers(0, 10**6),
)
def test_any_symmetric_matrix(n: int, kind: str, scale: float, top: int, bottom: int, tol: float, seed: int):
    rng = np.random.default_rng(seed)
    top, bottom = min(top, n), min(bottom, n)
    spectrum = {
        "gaussian": rng.standard_normal(n),
        "low rank": np.where(np.arange(n) < 3, rng.standard_normal(n), 0),
        "clustered": 1 + 1e-3 * rng.standard_normal(n),
        "indefinite ends": np.linspace(-1, 1, n) ** 3,
        "integer": rng.integers(-2, 3, n).astype(float),
    }[kind]
    q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    matrix = torch.from_numpy(scale * (q * spectrum) @ q.T)
    matrix = (matrix + matrix.T) / 2
    found = lanczos(lambda v: matrix @ v, n, top=top, bottom=bottom, tol=tol, seed=seed, max_products=200)
    true = torch.linalg.eigvalsh(matrix)
    size = float(true.abs().max())
    check_pairs(matrix, found, tol)
    assert found.top.converged.all()
    assert found.bottom.converged.all()
    assert torch.allclose(found.top.values, true.flip(0)[:top], rtol=0, atol=(2 * tol + 1e-10) * size)
    assert torch.allclose(found.bottom.values, true[:bottom], rtol=0, atol=(2 * tol + 1e-10) * size)


@settings(deadline=None, max_examples=40)
@given(products=st.integers(8, 30), top=st.integers(1, 5), bottom=st.integers(0, 3), seed=st.integers(0, 1000))
def test_a_small_budget_is_kept_and_nothing_false_is_flagged(products: int, top: int, bottom: int, seed: int):
    rng = np.random.default_rng(seed)
    q = np.linalg.qr(rng.standard_normal((60, 60)))[0]
    matrix = torch.from_numpy((q * np.sort(rng.standard_normal(60))) @ q.T)
    tol = 1e-6
    found = lanczos(lambda v: matrix @ v, 60, top=top, bottom=bottom, tol=tol, seed=seed, max_products=products)
    check_pairs(matrix, found, tol)
    assert found.krylov_products <= products
    assert len(found.top.values) == top
    assert len(found.bottom.values) == bottom


def test_seeds_decide_the_start_and_nothing_else():
    matrix = rotated(diagonal(9, 7, 4, bulk=(0, 1, 100)))
    state = torch.get_rng_state()
    a, b, c = (lanczos(lambda v: matrix @ v, 103, top=3, tol=1e-5, seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(a.top.values, b.top.values)
    assert torch.equal(a.top.vectors, b.top.vectors)
    assert np.array_equal(a.runs[0].projected, b.runs[0].projected)
    assert not np.array_equal(a.runs[0].projected, c.runs[0].projected)
    assert torch.allclose(a.top.vectors, c.top.vectors, atol=1e-3)  # also the sign


@pytest.mark.parametrize("block", [1, 2])
def test_the_recursion_is_a_probe_of_the_trace_and_of_the_density(block: int):
    """Σ w θ = qᵀHq and Σ w θ² = ‖Hq‖² for each start vector q (section 4.8)."""
    d = diagonal(9, 7, 4, bulk=(0, 1, 300))
    found = run(d, top=3, tol=1e-6, block=block, seed=4)
    off = np.abs(np.tril(found.runs[0].projected, -2 * block)).max()
    assert off < 1e-10  # a band: tridiagonal from one start vector
    generator = torch.Generator().manual_seed(4)
    drawn = torch.stack([torch.randn(303, generator=generator, dtype=torch.float64) for _ in range(block)])
    starts = torch.linalg.qr(drawn.T)[0].T
    theta, u = torch.linalg.eigh(torch.from_numpy(found.runs[0].projected))
    for run_from, q in zip(found.runs, starts, strict=True):
        w = u[run_from.start].square()
        assert float(w.sum()) == pytest.approx(1, abs=1e-12)
        for power in range(1, 6):
            assert float(w @ theta**power) == pytest.approx(float(q.square() @ d**power), rel=1e-9)


CLOSE = torch.linspace(-0.2, 1, 195, dtype=torch.float64)
PLANTED = {
    "double": (1.02, 1.02),
    "double a little farther": (1.05, 1.05),
    "double, one clear": (3, 1.05, 1.05),
    "triple": (1.05, 1.05, 1.05),
    "triple behind others": (3, 2.5, 1.1, 1.1, 1.1),
    "three doubles": (4, 4, 2, 2, 1.2, 1.2),
}


@pytest.mark.parametrize("block", [1, 2, 3])
@pytest.mark.parametrize("heads", PLANTED.values(), ids=PLANTED)
def test_multiple_eigenvalues_over_a_close_bulk(heads: tuple[float, ...], block: int):
    """As promised: nothing is assumed about how far the copies lie from the rest."""
    spectrum = torch.cat([torch.tensor(heads, dtype=torch.float64), CLOSE])
    for seed in range(6):
        matrix = rotated(spectrum, seed)
        found = lanczos(lambda v, m=matrix: m @ v, len(spectrum), top=len(heads), tol=1e-3, seed=seed, block=block)
        assert found.top.converged.all()
        assert found.top.values.tolist() == pytest.approx(list(heads), abs=1e-3 * heads[0])
        lower = lanczos(lambda v, m=matrix: -m @ v, len(spectrum), top=1, bottom=len(heads), seed=seed, block=block)
        assert lower.bottom.values.tolist() == pytest.approx([-h for h in heads], abs=1e-3 * heads[0])


def test_close_eigenvalues_are_not_taken_for_copies():
    """Two start vectors and no search, unless two values are as close as their residuals allow."""
    spectrum = torch.cat([torch.tensor([1, 0.999, 0.9, 0.899], dtype=torch.float64), CLOSE / 2])
    for seed in range(4):
        matrix = rotated(spectrum, seed)
        found = lanczos(lambda v, m=matrix: m @ v, len(spectrum), top=4, tol=1e-4, seed=seed)
        assert found.check_products == 0
        assert found.top.values.tolist() == pytest.approx([1, 0.999, 0.9, 0.899], abs=1e-4)
