"""Networks of every family against plain torch in float64: nothing is replaced, folded or kept over there.

Of each network, in ragged micro-batches: loss, gradient and a product for all parameters; products, eigenvalues and
Gauss-Newton products for some; a slice; the rise of m-sharpness, example by example; and the user's model afterwards.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from cases import assert_untouched, snapshot
from torch import Tensor, nn

from landscape.curvature.hessian import hessian
from landscape.curvature.operators import operator_of
from landscape.measures.engine.blockwise import _agree
from landscape.measures.engine.norm_ball import NormBall
from landscape.measures.engine.partition import partition
from landscape.measures.m_sharpness import block_sharpness
from landscape.numerics.trees import map_tensors
from landscape.problem.problem import Problem
from landscape.surfaces.surface import surface

from .networks import EXAMPLES, NETWORKS, Network
from .plain import Plain, relative

MOST = {True: 100, False: 40}  # numbers in the dense matrix of a small and of a large network
LARGE = 30_000  # parameters
RHO = 0.05


def some_parameters(model: nn.Module) -> list[str]:
    """Names of small tensors, evenly through the network, with `MOST` numbers together (or the smallest one)."""
    sizes = {n: p.numel() for n, p in model.named_parameters() if p.requires_grad}
    most = MOST[sum(sizes.values()) < LARGE]
    limit = max(most // 3, min(sizes.values()))
    small = [n for n, size in sizes.items() if size <= limit]
    if not small:
        return []
    order = sorted(range(len(small)), key=lambda i: (_van_der_corput(i), i))
    chosen: list[str] = []
    for i in order:
        if not chosen or sum(sizes[n] for n in chosen) + sizes[small[i]] <= most:
            chosen.append(small[i])
    return sorted(chosen, key=list(sizes).index)


def _van_der_corput(i: int) -> float:
    value, scale = 0.0, 0.5
    while i:
        value, scale, i = value + scale * (i & 1), scale / 2, i >> 1
    return value


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: n.name)
def test_a_network_against_plain_torch(network: Network, libraries: None):
    model, inputs, targets = network.made()
    before = snapshot(model)
    plain = Plain(model, inputs, targets, network.loss)
    everything = list(plain.named)
    data = inputs if network.loss == "causal_lm" else (inputs, targets)
    problem = Problem(model, data, network.loss, device="cpu", batch_size=2)
    g = torch.Generator().manual_seed(1)

    # loss, gradient and products with all parameters
    first, gradient = plain.loss().item(), plain.gradient(everything)
    assert problem.loss() == pytest.approx(first, rel=1e-11)
    assert relative(problem.gradient(), gradient) < 1e-9
    v = torch.randn(problem.n_parameters, generator=g, dtype=torch.float64)
    product, error = plain.differences(everything, v)
    assert error < 1e-5, "the differences agree nowhere"
    assert relative(problem.hvp(v), product) < max(1e-6, 3 * error)
    operator = operator_of(problem)
    for _ in range(2):
        assert relative(operator(v), product) < max(1e-6, 3 * error)

    # a dense matrix of some
    names = some_parameters(model)
    assert names
    pattern = "^(?:" + "|".join(map(re.escape, names)) + ")$"
    few = Problem(model, data, network.loss, device="cpu", batch_size=2, params=pattern)
    dense, inner = plain.hessian(few.space.names), plain.gauss_newton(few.space.names)
    vectors = torch.randn(2, few.n_parameters, generator=g, dtype=torch.float64)
    with operator_of(few) as curved, operator_of(few, "ggn") as newton:
        for u in vectors:
            assert relative(curved(u), dense @ u) < 1e-6
            assert relative(newton(u), inner @ u) < 1e-7
    eigenvalues = np.linalg.eigvalsh(dense.numpy())
    found = hessian(few, top=2, bottom=1, tol=1e-7, max_products=4 * few.n_parameters + 50)
    largest = np.abs(eigenvalues).max()
    assert np.abs(np.array(found.record["eigenvalues"]) - eigenvalues[::-1][:2]).max() < 1e-6 * largest
    assert abs(found.record["smallest"][0] - eigenvalues[0]) < 1e-6 * largest

    # a slice through the centre
    slice_ = surface(problem, dim=1, points=3, range=0.1, seed=2)
    direction = torch.cat([slice_.vectors[f"d1.{n}"].double().reshape(-1) for n in everything])
    for x, loss in zip(slice_.data["x"].values, slice_.data["loss"].values, strict=True):
        with plain.moved(everything, float(x) * direction), torch.no_grad():
            assert float(loss) == pytest.approx(plain.loss().item(), rel=1e-9)

    # m-sharpness with m = 1, example by example and stacked
    rise = plain_rise(model, inputs, targets, network.loss)
    ways = ["loop", "stack"] if _agree(problem, partition(problem, 1, 0)[:2]) else ["loop"]
    for way in ways:
        value = block_sharpness(problem, [NormBall(RHO)], m=1, way=way)[0].value
        assert value == pytest.approx(rise, rel=1e-7), way
    assert_untouched(model, before)


def plain_rise(model: nn.Module, inputs: Any, targets: Tensor, loss: str) -> float:
    """Weighted mean rise of each example's loss at rho along its own gradient."""
    total, weights = 0.0, 0.0
    for i in range(EXAMPLES):
        # Two of the same: of one alone, torch's own gradients are wrong behind some BatchNorms.
        twice = map_tensors((inputs, targets), lambda t, i=i: torch.stack([t[i], t[i]]))
        plain = Plain(model, *twice, loss)
        names, weight = list(plain.named), int((plain.labels != -100).sum())
        gradient = plain.gradient(names)
        start = plain.loss().item()
        with plain.moved(names, RHO * gradient / gradient.norm()), torch.no_grad():
            total += weight * (plain.loss().item() - start)
        weights += weight
    return total / weights


def test_every_family_is_there():
    families = Counter(n.family for n in NETWORKS)
    wanted = {"convolution", "attention", "state space", "mixer", "MoE", "recurrent", "complex", "graph"}
    assert wanted <= set(families)
    assert all(families[name] >= 2 for name in wanted)
    assert len({n.name for n in NETWORKS}) == len(NETWORKS) >= 40
