"""Blocks computed all at once must give what blocks computed one by one give."""

from __future__ import annotations

import logging
import warnings

import numpy as np
import pytest
import torch
from cases import OUT_OF_MEMORY, domain_data, mean_cross_entropy, problem_of, small_mlp
from torch import Tensor, nn

from landscape.measures.engine import ascent
from landscape.measures.engine.blockwise import Looped, Stacked, rule
from landscape.measures.engine.flops import forward_work
from landscape.measures.engine.norm_ball import NormBall, asam
from landscape.measures.engine.partition import describe, partition
from landscape.measures.m_sharpness import block_sharpness
from landscape.models.convnet import ConvNet
from landscape.problem.problem import Problem


def convnet() -> Problem:
    torch.manual_seed(0)
    model = ConvNet((1, 3, 4), (4, 4), 3, True, "relu").double()
    model(torch.randn(50, 1, 4, 4).double())  # running statistics that are not 0 and 1
    data = (torch.randn(22, 1, 4, 4).double(), torch.arange(22) % 3)
    return problem_of(model, data)


class Keywords(nn.Module):
    """Takes a dictionary, and two parameters are one."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(5, 5).double()
        self.b = nn.Linear(5, 5).double()
        self.b.weight = self.a.weight
        self.c = nn.Linear(5, 3).double()

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Logits."""
        return self.c(torch.tanh(self.a(left)) + self.b(right))


def keywords() -> Problem:
    torch.manual_seed(0)
    inputs = {"left": torch.randn(22, 5).double(), "right": torch.randn(22, 5).double()}
    return problem_of(Keywords(), (inputs, torch.arange(22) % 3), params=r"^[ac]\.")


PROBLEMS = {
    "mlp": lambda: problem_of(small_mlp(), domain_data((22,))["art"]),
    "convnet with BatchNorm": convnet,
    "mean-only loss": lambda: problem_of(small_mlp(), domain_data((22,))["art"], mean_cross_entropy),
    "dictionary, tied and frozen": keywords,
}


@pytest.mark.parametrize("make", PROBLEMS.values(), ids=PROBLEMS)
def test_stacked_losses_and_gradients_at_points_of_their_own(make):
    problem = make()
    parts = partition(problem, 5, 0)[:4]
    stacked = Stacked(problem, parts)
    points = (
        problem.weights
        + 0.1 * torch.randn(4, problem.n_parameters, generator=torch.Generator().manual_seed(1)).double()
    )
    values, gradients = stacked.losses_and_gradients(points)
    for k, part in enumerate(parts):
        alone = Looped(problem, part)
        loss, gradient = alone.losses_and_gradients(points[k : k + 1])
        assert values[k] == pytest.approx(loss.item(), rel=1e-12)
        assert gradients[k].numpy() == pytest.approx(gradient[0].numpy(), abs=1e-13)
        assert stacked.losses(points)[k] == pytest.approx(alone.losses(points[k : k + 1]).item(), rel=1e-12)
    shared = stacked.losses_and_gradients(problem.weights[None])[1]
    assert shared[2].numpy() == pytest.approx(problem.restrict_to_examples(parts[2]).gradient().numpy(), abs=1e-13)
    assert torch.equal(problem.space.current(), problem.weights)


@pytest.mark.parametrize("make", PROBLEMS.values(), ids=PROBLEMS)
def test_every_climb_is_the_same_both_ways(make):
    problem = make()
    balls = [NormBall(0.1), NormBall(0.02, "inf"), NormBall(0.3, "2", asam(problem, 0.01))]
    for climb in (ascent.one_step, ascent.projected_ascent(4), ascent.auto_pgd(5)):
        both = [block_sharpness(problem, balls, m=4, climb=climb, way=way) for way in ("loop", "stack")]
        assert [s.value for s in both[0]] == pytest.approx([s.value for s in both[1]], rel=1e-9)
        assert both[0][0].n_blocks == 6


def test_the_rule_counts_operations():
    problem = PROBLEMS["mlp"]()
    one, four = (forward_work(problem, np.arange(n)) for n in (1, 4))
    assert one.operations == 2 * (5 * 6 + 6 * 3)
    assert four.operations == 4 * one.operations
    assert four.calls == one.calls > 0
    layers = 8 * (6 + 6 + 3)  # float64: two linear ones and an activation
    assert layers < one.nbytes < 3 * layers  # and the loss
    assert 3 * one.nbytes < four.nbytes <= 4 * one.nbytes
    assert rule(problem, partition(problem, 2, 0)) == "stack"
    assert rule(problem, partition(problem, 22, 0)) == "loop"
    wide = problem_of(nn.Linear(5000, 3).double(), (torch.zeros(40, 5000).double(), torch.zeros(40).long()))
    assert rule(wide, partition(wide, 1, 0)) == "stack"
    large = nn.Sequential(nn.Linear(5, 4000), nn.Linear(4000, 4000), nn.Linear(4000, 3))
    huge = problem_of(large, (torch.zeros(4, 5), torch.zeros(4).long()))
    assert rule(huge, partition(huge, 2, 0)) == "loop"


class Asks(nn.Module):
    """Looks at its values, which vectorised code cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        out = self.linear(x)
        return out * 2 if float(out.detach().sum()) > -1e9 else out


class Odd(nn.Module):
    """Behaves otherwise inside torch.func."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.linear(x) * (2 if torch._C._functorch.is_functorch_wrapped_tensor(x) else 1)


@pytest.mark.parametrize(("model", "told"), [(Asks, "cannot be vectorised"), (Odd, "gives other numbers")])
def test_a_network_that_cannot_be_stacked_is_looped(model, told: str, caplog):
    problem = problem_of(model(), domain_data((12,))["art"])
    with caplog.at_level(logging.INFO, "landscape"):
        (found,) = block_sharpness(problem, [NormBall(0.1)], m=2)
    (looped,) = block_sharpness(problem, [NormBall(0.1)], m=2, way="loop")
    assert found == looped
    assert told in caplog.text


def test_blocks_that_do_not_fit_into_memory_together_are_halved(monkeypatch, caplog):
    problem = PROBLEMS["mlp"]()
    (whole,) = block_sharpness(problem, [NormBall(0.1)], m=2, way="stack")
    plain = Stacked.losses

    def limited(self: Stacked, points: Tensor) -> Tensor:
        if len(points) > 3:
            raise RuntimeError(OUT_OF_MEMORY)
        return plain(self, points)

    monkeypatch.setattr(Stacked, "losses", limited)
    (tight,) = block_sharpness(problem, [NormBall(0.1)], m=2, way="stack")
    assert tight.value == pytest.approx(whole.value, rel=1e-12)
    assert tight.n_blocks == whole.n_blocks == 11
    assert "out of memory" in caplog.text


def test_blocks_are_nested_and_recorded():
    problem = problem_of(small_mlp(), domain_data())
    for small, large in ((2, 6), (6, 42)):
        coarse = [set(p.tolist()) for p in partition(problem, large, 3)]
        for part in partition(problem, small, 3):
            assert any(set(part.tolist()) <= block for block in coarse)
    assert sorted(np.concatenate(partition(problem, 5, 3)).tolist()) == list(range(42))
    assert [len(p) for p in partition(problem, 5, 3)] == [5] * 8 + [2]
    a, b = describe(problem, 3), describe(problem, 4)
    assert a["order_hash"] != b["order_hash"]
    assert a == describe(problem, 3)


class Masked(nn.Module):
    """Attention under a mask, which vmap takes example by example where there is no graph."""

    def __init__(self) -> None:
        super().__init__()
        self.lift, self.head = nn.Linear(1, 6), nn.Linear(2, 3)
        self.register_buffer("mask", torch.linspace(-1, 1, 25).view(1, 1, 5, 5))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.lift(x[:, None, :, None]).chunk(3, -1)
        found = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=self.mask)
        return self.head(found.mean((1, 2)))


class WeightNormed(nn.Module):
    """An operation that vmap has no rule for."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.utils.parametrizations.weight_norm(nn.Linear(5, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.tanh(x))


@pytest.mark.parametrize("make", [Masked, WeightNormed])
def test_what_vmap_does_badly_is_looped_without_a_word(make: type[nn.Module]):
    torch.manual_seed(0)
    problem = problem_of(make().double(), domain_data((22,))["art"])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert rule(problem, partition(problem, 1, 0)) == "loop"
        found = block_sharpness(problem, [NormBall(0.1)], m=1)[0]
    assert not said
    assert found == block_sharpness(problem, [NormBall(0.1)], m=1, way="loop")[0]


class Named(nn.Module):
    """One layer under two names, and a weight that two layers share: of both torch makes too little."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.head, self.middle.weight = self.last, self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.middle(torch.tanh(self.first(x)))))


def test_a_layer_with_two_names_is_stacked_and_has_its_weights_afterwards():
    torch.manual_seed(0)
    problem = problem_of(Named().double(), domain_data((22,))["art"])
    before = problem.gradient()
    parts = partition(problem, 1, 0)
    assert rule(problem, parts) == "stack"
    (found,) = block_sharpness(problem, [NormBall(0.1)], m=1)
    assert torch.equal(problem.gradient(), before)
    (expected,) = block_sharpness(problem, [NormBall(0.1)], m=1, way="loop")
    assert found.value == pytest.approx(expected.value, rel=1e-10)
