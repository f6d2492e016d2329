from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from landscape.numerics.ascent import ascent_step, global_norm

NORMS = {"1": 1, "2": 2, "inf": np.inf}


def flat(tensors) -> np.ndarray:
    return torch.cat([t.reshape(-1) for t in tensors]).numpy()


@pytest.mark.parametrize("p", NORMS)
@settings(deadline=None)
@given(
    g=hnp.arrays(float, st.integers(2, 12), elements=st.floats(-1e3, 1e3).filter(lambda x: abs(x) > 1e-3)),
    rho=st.floats(1e-4, 10),
    cut=st.integers(1, 11),
)
def test_the_step_has_length_rho_and_gains_the_most(p: str, g: np.ndarray, rho: float, cut: int):
    """The maximum of <g, e> over |e|_p <= rho is rho |g|_q."""
    parts = [torch.from_numpy(a) for a in np.split(g, [min(cut, len(g) - 1)])]
    e = flat(ascent_step(parts, rho, p=p))
    q = {"1": np.inf, "2": 2, "inf": 1}[p]
    assert np.linalg.norm(e, NORMS[p]) == pytest.approx(rho, rel=1e-8)
    assert g @ e == pytest.approx(rho * np.linalg.norm(g, q), rel=1e-8)


@pytest.mark.parametrize("p", NORMS)
@settings(deadline=None)
@given(
    g=hnp.arrays(float, 6, elements=st.floats(-10, 10).filter(lambda x: abs(x) > 1e-3)),
    w=hnp.arrays(float, 6, elements=st.floats(-10, 10).filter(lambda x: abs(x) > 1e-3)),
)
def test_the_adaptive_step_lives_in_units_of_the_weights(p: str, g: np.ndarray, w: np.ndarray):
    e = flat(ascent_step([torch.from_numpy(g)], 0.3, p=p, weights=[torch.from_numpy(w)]))
    q = {"1": np.inf, "2": 2, "inf": 1}[p]
    assert np.linalg.norm(e / np.abs(w), NORMS[p]) == pytest.approx(0.3, rel=1e-6)
    assert g @ e == pytest.approx(0.3 * np.linalg.norm(np.abs(w) * g, q), rel=1e-6)


def test_closed_forms():
    g, w = [torch.tensor([3.0, 0.0]), torch.tensor([[-4.0]])], [torch.tensor([2.0, 7.0]), torch.tensor([[-0.5]])]
    assert flat(ascent_step(g, 0.5)).tolist() == pytest.approx([0.3, 0, -0.4])
    assert flat(ascent_step(g, 0.5, p="inf")).tolist() == [0.5, 0, -0.5]
    assert flat(ascent_step(g, 0.5, p="1")).tolist() == [0, 0, -0.5]
    # w^2 g / ||w g||: w g = (6, 0, 2) up to sign
    assert flat(ascent_step(g, 0.5, weights=w)).tolist() == pytest.approx(np.array([12, 0, -1]) * 0.5 / math.sqrt(40))
    assert flat(ascent_step(g, 0.5, p="inf", weights=w)).tolist() == [1, 0, -0.25]
    assert flat(ascent_step(g, 0.5, p="1", weights=w)).tolist() == [1, 0, 0]


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("adaptive", [False, True])
def test_a_zero_gradient_gives_a_zero_step(p: str, adaptive: bool):
    g = [torch.zeros(3), torch.zeros(2, 2)]
    step = ascent_step(g, 0.1, p=p, weights=[torch.ones(3), torch.ones(2, 2)] if adaptive else None)
    assert flat(step).tolist() == [0] * 7


@pytest.mark.parametrize("p", NORMS)
def test_the_gradient_is_not_written_to(p: str):
    g = [torch.tensor([1.0, -2.0])]
    step = ascent_step(g, 0.1, p=p)
    step[0].zero_()
    assert g[0].tolist() == [1, -2]


@pytest.mark.parametrize("p", NORMS)
def test_transposed_storage_is_no_obstacle(p: str):
    g = torch.arange(6.0).reshape(2, 3).T - 2.2
    assert not g.is_contiguous()
    expected = ascent_step([g.contiguous()], 0.1, p=p)[0]
    assert torch.equal(ascent_step([g], 0.1, p=p)[0], expected)


def test_the_norm_is_global_and_wide():
    assert float(global_norm([torch.tensor([3.0]), torch.tensor([[4.0]])])) == 5
    assert float(global_norm([torch.full((4,), 300.0, dtype=torch.float16)])) == 600
