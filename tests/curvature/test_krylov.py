"""Restarts, blocks, warm starts, and what one step costs."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch

from landscape.base.errors import NumericalError
from landscape.curvature.estimators.probes import rademacher
from landscape.curvature.lanczos import krylov
from landscape.curvature.lanczos.eigenpairs import lanczos
from landscape.curvature.lanczos.krylov import Krylov

from .test_lanczos import check_pairs, diagonal, rotated, run


@pytest.mark.parametrize("images", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_a_restarted_space_finds_the_same(seed: int, images: bool):
    """Case 7, close eigenvalues, with room for 12 vectors where 24 would be used."""
    d = diagonal(1, 0.98, 0.96, 0.94, 0.92, bulk=(0, 0.5, 500))
    found = run(d, top=5, tol=1e-6, seed=seed, basis_limit=12, keep_images=images)
    assert found.restarts >= 1
    assert found.top.converged.all()
    assert found.top.values.tolist() == pytest.approx([1, 0.98, 0.96, 0.94, 0.92], abs=1e-8)
    assert found.orthogonality < 1e-10
    assert found.krylov_products <= 60
    check_pairs(torch.diag(d), found, 1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_restarts_keep_both_ends(seed: int):
    matrix = rotated(torch.cat([diagonal(9, 7, 6, bulk=(0, 1, 200)), torch.tensor([-4.0, -3.5]).double()]))
    found = lanczos(lambda v: matrix @ v, 205, top=3, bottom=2, tol=1e-7, seed=seed, basis_limit=13)
    assert found.top.values.tolist() == pytest.approx([9, 7, 6], abs=1e-8)
    assert found.bottom.values.tolist() == pytest.approx([-4, -3.5], abs=1e-8)
    check_pairs(matrix, found, 1e-7)


def test_a_spectrum_without_gaps_within_a_small_space():
    """Width does not save it: many restarts, and still the true residuals decide."""
    matrix = rotated(torch.linspace(0, 1, 300, dtype=torch.float64).square())
    found = lanczos(lambda v: matrix @ v, 300, top=3, tol=1e-4, basis_limit=14, max_products=2000)
    true = torch.linalg.eigvalsh(matrix).flip(0)[:3]
    assert found.restarts > 3
    assert found.top.converged.all()
    assert torch.allclose(found.top.values, true, rtol=0, atol=1e-4)


@pytest.mark.parametrize("block", [2, 3, 4])
@pytest.mark.parametrize("limit", [None, 24])
def test_a_block_holds_as_many_copies_as_vectors(block: int, limit: int | None):
    """{5, 5, 5, 3, 2} + bulk: without any completeness check."""
    d = diagonal(5, 5, 5, 3, 2)
    found = run(d, top=3, tol=1e-6, block=block, complete=False, basis_limit=limit)
    expected = [5, 5, 5] if block >= 3 else [5, 5, 3]
    assert found.top.values.tolist() == pytest.approx(expected, abs=1e-6)
    assert found.top.converged.all()
    assert found.orthogonality < 1e-9
    check_pairs(torch.diag(d), found, 1e-6)


def test_a_block_wider_than_the_matrix_and_a_zero_matrix():
    matrix = rotated(torch.tensor([3.0, 2, 1]).double())
    found = lanczos(lambda v: matrix @ v, 3, top=2, block=5, tol=1e-9)
    assert found.top.values.tolist() == pytest.approx([3, 2], abs=1e-12)
    zero = lanczos(torch.zeros_like, 20, top=2, bottom=1, block=3)
    assert zero.top.values.tolist() == [0, 0]
    assert zero.top.converged.all()


def test_stored_products_and_explicit_ones_agree():
    """In float32 the residual from stored products holds their rounding, too: no fiction."""
    matrix = rotated(diagonal(100, 60, 40, 25, 15, bulk=(0, 1, 60))).float()

    def product(v):
        return matrix @ v.float()

    for images in (True, False):
        found = lanczos(product, 65, top=3, tol=1e-9, max_products=40, keep_images=images)
        explicit = [
            float((product(v).double() - value * v).norm())
            for value, v in zip(found.top.values, found.top.vectors, strict=True)
        ]
        assert (found.top.residuals * 100).tolist() == pytest.approx(explicit, rel=2, abs=3e-6)
        assert float(found.top.residuals.min()) > 1e-9


def test_a_warm_start_saves_products():
    matrix = rotated(diagonal(9, 7, 6, 5, 4, bulk=(0, 2, 300)))
    noise = torch.randn(305, 305, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    nearby = matrix + 1e-4 * (noise + noise.T)
    cold = lanczos(lambda v: nearby @ v, 305, top=5, tol=1e-3)
    before = lanczos(lambda v: matrix @ v, 305, top=5, tol=1e-6)
    warm = lanczos(lambda v: nearby @ v, 305, top=5, tol=1e-3, start=before.top.vectors.sum(0))
    assert warm.top.converged.all()
    assert torch.allclose(warm.top.values, cold.top.values, rtol=0, atol=2e-2)
    assert warm.krylov_products < 0.7 * cold.krylov_products


def test_a_known_first_product_is_not_made_again():
    d = diagonal(9, 7, 4, bulk=(0, 1, 100))
    made = []

    def product(v):
        made.append(1)
        return d * v

    start = rademacher(103, 5, 0)
    a, b = (Krylov(product, start[None], torch.Tensor, first_image=image) for image in (d * start, None))
    for space in (a, b):
        made.clear()
        while space.size < 20:
            space.grow()
        assert len(made) == space.products - (space is a)
    assert np.allclose(a.projected, b.projected, rtol=1e-12, atol=1e-14)


def test_least_steps_for_a_density():
    d = diagonal(9, 7, 4, bulk=(0, 1, 100))
    for block in (1, 2, 3):
        found = run(d, top=1, tol=1e-1, least_steps=30, block=block)
        assert [r.start for r in found.runs] == list(range(block))
        nodes = len(found.runs[0].projected)
        assert nodes >= 30 * block - (block - 1) * len(found.settled.values)
        assert nodes <= 30 * block


@pytest.mark.parametrize("block", [1, 2, 3])
@pytest.mark.parametrize("limit", [None, 14])
def test_a_matrix_that_is_not_symmetric_is_seen_in_the_products_made_anyhow(block: int, limit: int | None):
    """Against the Frobenius norm of H − Hᵀ: all of it random, within the rest only, or of rank two."""
    d = diagonal(100, 60, 40, 25, 15, bulk=(0, 1, 295))
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(300, 300, generator=generator, dtype=torch.float64)
    noise = noise - noise.T
    inner = noise.clone()
    inner[:5] = inner[:, :5] = 0
    two = torch.outer(noise[0], noise[1]) - torch.outer(noise[1], noise[0])
    draw = torch.Generator().manual_seed(1)
    for skew, least in ((noise, 0.3), (inner, 0.003 if block == 1 else 0.1), (two, 0.1), (0 * noise, 0)):
        size = 1e-2 * d.norm() / skew.norm() if least else 0.0
        matrix = torch.diag(d) + skew * size
        seen = []
        for _ in range(10):
            rows = torch.randn(block, 300, generator=draw, dtype=torch.float64)
            space = Krylov(lambda v, m=matrix: m @ v, rows, torch.Tensor, limit=limit)
            while space.products < 18:
                if space.must_restart:
                    space.restart(list(range(space.size - 5, space.size)))
                space.grow()
            starts, beside, within = space.skew
            seen.append(max(300**0.5 * starts, 300**0.5 * beside / space.largest, within / space.largest))
        assert min(seen) >= least * 1e-2
        assert max(seen) <= (0.1 if least else 1e-12)


def test_one_wait_per_step(monkeypatch: pytest.MonkeyPatch):
    """Every number that the host looks at comes through `read`, once per step."""
    waits = []
    plain = krylov.read
    monkeypatch.setattr(krylov, "read", lambda t: waits.append(1) or plain(t))
    d = diagonal(9, 7, 4, bulk=(0, 1, 100))
    rows = rademacher(103, 0, 0)[None]
    space = Krylov(lambda v: d * v, rows, lambda: torch.randn(103).double(), images=True)
    waits.clear()

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        asked = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            Watch.asked += func is torch.ops.aten._local_scalar_dense.default
            return func(*args, **(kwargs or {}))

    with Watch():
        for _ in range(12):
            space.grow()
    assert len(waits) == 12
    assert Watch.asked == 0


def test_a_product_that_is_not_finite_is_refused():
    with pytest.raises(NumericalError, match=r"product is not finite.*product 2 of") as caught:
        lanczos(lambda v: v * torch.nan, 30, top=1)
    assert caught.value.exit_code == 4


def test_ritz_vectors_need_no_second_basis():
    """Case 13: nor does a restart."""
    n, m = 200_000, 16
    d = torch.linspace(0, 1, n, dtype=torch.float64)
    space = Krylov(lambda v: d * v, rademacher(n, 0, 0)[None], lambda: torch.randn(n).double(), limit=m)
    while not space.must_restart:
        space.grow()
    before = space.basis.untyped_storage().nbytes()
    tracemalloc.start()
    _, u, _ = space.ritz()
    with torch.profiler.profile(profile_memory=True) as profile:
        space.combine(u[:, -2:])
        space.restart([0, m - 2, m - 1])
    tracemalloc.stop()
    largest = max(e.cpu_memory_usage for e in profile.events())
    assert largest <= 4 * n * 8  # a few vectors, not sixteen
    assert space.basis.untyped_storage().nbytes() == before
    gram = space.basis[:3] @ space.basis[:3].T
    assert np.allclose(gram.numpy(), np.eye(3), atol=1e-12)
