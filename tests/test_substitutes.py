"""Second derivatives of operations that torch gets wrong, lacks, or changes the model with."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from cases import Coordinates, problem_of
from torch import Tensor, nn
from torch.nn.utils import parametrizations, weight_norm

from landscape.errors import NumericalError
from landscape.problem import Problem
from landscape.substitutes import twice_differentiable

TOKENS = torch.tensor([[0, 3, 3, 1], [2, 4, 1, 0], [5, 2, 2, 2]])
LABELS = torch.tensor([0, 2, 1])


class Through(nn.Module):
    """An embedding or linear map, then a function of its output, then a linear map to three classes."""

    def __init__(self, first: nn.Module, function, width: int) -> None:
        super().__init__()
        self.first, self.function, self.last = first, function, nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)))


class Lstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.cell, self.last = nn.Embedding(6, 3), nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.cell(self.first(x))[0][:, -1])


class OffsetBag(nn.Module):
    def __init__(self, mode: str) -> None:
        super().__init__()
        self.bag, self.last = nn.EmbeddingBag(6, 4, mode=mode), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.bag(x.reshape(-1), torch.arange(len(x)) * x.shape[1])))


def old_weight_norm() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return weight_norm(nn.Linear(4, 5))


def mean(x: Tensor) -> Tensor:
    return x.mean(1)


NETWORKS = {
    "weight_norm": lambda: Through(parametrizations.weight_norm(nn.Linear(4, 5)), torch.tanh, 5),
    "weight_norm over all": lambda: Through(parametrizations.weight_norm(nn.Linear(4, 5), dim=None), torch.tanh, 5),
    "weight_norm, old form": lambda: Through(old_weight_norm(), torch.tanh, 5),
    "hardsigmoid": lambda: Through(nn.Linear(4, 5), nn.Hardsigmoid(), 5),
    "batch_norm": lambda: Through(nn.Linear(4, 5), nn.Sequential(nn.BatchNorm1d(5), nn.Tanh()), 5),
    "embedding, sparse": lambda: Through(nn.Embedding(6, 4, sparse=True), mean, 4),
    "embedding, padded": lambda: Through(nn.Embedding(6, 4, padding_idx=0, sparse=True), mean, 4),
    "bag, mean": lambda: Through(nn.EmbeddingBag(6, 4), torch.tanh, 4),
    "bag, sum": lambda: Through(nn.EmbeddingBag(6, 4, mode="sum", padding_idx=2), torch.tanh, 4),
    "bag, max": lambda: Through(nn.EmbeddingBag(6, 4, mode="max"), torch.tanh, 4),
    "bag, offsets": lambda: OffsetBag("mean"),
    "bag, offsets, sum": lambda: OffsetBag("sum"),
    "cdist": lambda: Through(nn.Linear(4, 5), lambda x: torch.cdist(x, x.new_ones(2, 5)), 2),
    "attention": lambda: Through(
        nn.Sequential(nn.Embedding(6, 4), nn.TransformerEncoderLayer(4, 2, 6, batch_first=True)), mean, 4
    ),
    "lstm": Lstm,
    "spectral_norm": lambda: Through(parametrizations.spectral_norm(nn.Linear(4, 5)), torch.tanh, 5),
}


def network(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = NETWORKS[name]()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p), alpha=0.3)
    model = model.double().eval()
    wants_tokens = not isinstance(getattr(model, "first", None), nn.Linear) or hasattr(model, "cell")
    return model, TOKENS if wants_tokens else torch.randn(3, 4).double()


@pytest.mark.parametrize("name", NETWORKS)
def test_products_agree_with_differences_of_gradients(name: str):
    """Central differences in float64, along random directions: what a symmetric mistake would not survive."""
    model, x = network(name)
    problem = problem_of(model, (x, LABELS))
    generator = torch.Generator().manual_seed(1)
    h = 1e-5
    for _ in range(3):
        v = torch.randn(problem.n_parameters, generator=generator, dtype=torch.float64)
        v *= problem.gradient() != 0  # torch does not train the row of a padding index
        v /= v.norm()
        ends = []
        for sign in (1, -1):
            with problem.excursion() as tensors:
                for tensor, part in zip(tensors, problem.space.split(v), strict=True):
                    tensor.add_(part, alpha=sign * h)
                ends.append(problem.gradient())
        expected = (ends[0] - ends[1]) / (2 * h)
        assert float((problem.hvp(v) - expected).norm() / expected.norm()) < 1e-7


@pytest.mark.parametrize("name", NETWORKS)
def test_the_forward_pass_stays_the_same(name: str):
    model, x = network(name)
    with twice_differentiable(set()):
        substituted = model(x)
    assert torch.allclose(substituted, model(x), rtol=0, atol=1e-14)


def test_what_was_replaced_is_recorded():
    model, x = network("weight_norm")
    problem = problem_of(model, (x, LABELS))
    problem.hvp(problem.weights)
    assert problem.describe()["replaced"] == ["weight_norm"]


def test_torch_still_needs_it():
    """If this fails, torch has mended weight_norm."""
    model, x = network("weight_norm")
    tensors = list(model.parameters())
    gradient = torch.cat(
        [g.reshape(-1) for g in torch.autograd.grad(F.cross_entropy(model(x), LABELS), tensors, create_graph=True)]
    )
    rows = [torch.autograd.grad(g, tensors, retain_graph=True, allow_unused=True) for g in gradient]
    zeros = [torch.zeros_like(p) for p in tensors]
    matrix = torch.stack(
        [torch.cat([(z if p is None else p).reshape(-1) for z, p in zip(zeros, row, strict=True)]) for row in rows]
    )
    assert (matrix - matrix.T).norm() > 1e-2 * matrix.norm()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("p", [1, 2])
def test_margin_losses_and_distances(p: int, weighted: bool):
    torch.manual_seed(0)
    x = torch.randn(7, 4, dtype=torch.float64)
    y = torch.arange(7) % 4
    weight = torch.rand(4, dtype=torch.float64) if weighted else None
    for reduction in ("mean", "sum", "none"):
        plain = F.multi_margin_loss(x, y, p=p, margin=0.7, weight=weight, reduction=reduction)
        with twice_differentiable(set()):
            ours = F.multi_margin_loss(x, y, p=p, margin=0.7, weight=weight, reduction=reduction)
        assert torch.allclose(ours, plain, atol=1e-15)
    with twice_differentiable(set()):
        assert torch.allclose(F.pdist(x), torch.nn.functional.pdist(x), atol=1e-14)
        leaf = x.requires_grad_()
        (slope,) = torch.autograd.grad(torch.cdist(leaf, leaf).sum(), leaf)  # the diagonal is at distance zero
    assert torch.isfinite(slope).all()


# -- embeddings that renormalise themselves --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_renormalising_embeddings_are_settled_once(kind: type[nn.Module]):
    """Otherwise every forward pass moves the weights, and the product is 224 % off."""
    torch.manual_seed(0)
    table = kind(6, 4, max_norm=1.0)
    with torch.no_grad():
        table.weight.mul_(3)
    model = nn.Sequential(table, nn.Flatten(), nn.Linear(16 if kind is nn.Embedding else 4, 3)).double()
    before = model[0].weight.detach().clone()
    problem = problem_of(model, (TOKENS, LABELS))
    assert torch.equal(model[0].weight, before)
    assert model[0].max_norm == 1.0
    assert problem.describe()["settled_embeddings"] == ["0"]
    centre = problem.weights.clone()
    value = problem.loss()
    problem.hvp(centre)
    assert torch.equal(problem.space.current(), centre)
    norms = problem.model[0].weight.norm(dim=1)
    assert bool((norms <= 1 + 1e-6).all())
    assert value == pytest.approx(F.cross_entropy(model(TOKENS), LABELS).item(), rel=1e-6)  # now model has moved


def test_a_functional_embedding_that_renormalises_is_refused():
    class Renormalising(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.last = nn.Parameter(torch.randn(6, 4)), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(F.embedding(x, self.table, max_norm=1.0).mean(1))

    problem = problem_of(Renormalising(), (TOKENS, LABELS))
    with pytest.raises(NumericalError, match="max_norm changes its weights"):
        problem.hvp(problem.weights)


def test_multilabel_margins_and_padded_bags_have_torchs_values():
    x = torch.sin(torch.arange(20, dtype=torch.float64)).reshape(4, 5)
    labels = torch.tensor([[0, 3, -1, 2, -1], [-1, 0, 0, 0, 0], [4, 1, 0, 2, 3], [2, 2, -1, 0, 0]])
    for reduction in ("mean", "sum", "none"):
        plain = F.multilabel_margin_loss(x, labels, reduction=reduction)
        with twice_differentiable(set()):
            assert torch.allclose(F.multilabel_margin_loss(x, labels, reduction=reduction), plain, atol=1e-15)
    index, offsets = (
        torch.tensor([1, 0, 0, 3, 3, 2, 0]),
        torch.tensor([0, 2, 2, 3, 6]),
    )  # the last two are one padding
    for mode in ("sum", "mean", "max"):
        plain = F.embedding_bag(index, x, offsets, mode=mode, padding_idx=0)
        with twice_differentiable(set()):
            assert torch.allclose(F.embedding_bag(index, x, offsets, mode=mode, padding_idx=0), plain, atol=1e-15)


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0, 2.0, 3.0, float("inf")])
def test_distances_in_every_norm_have_torchs_values(p: float):
    x = torch.sin(torch.arange(20, dtype=torch.float64)).reshape(4, 5)
    plain = torch.cdist(x, x, p=p), F.pdist(x, p)
    with twice_differentiable(set()):
        found = torch.cdist(x, x, p=p), F.pdist(x, p)
    for a, b in zip(plain, found, strict=True):
        assert torch.allclose(a, b, atol=1e-14)


@pytest.mark.parametrize(
    ("loss", "op"),
    [
        (lambda o, t: torch.segment_reduce(o, "sum", lengths=torch.tensor([1, 1]), axis=0).sum(1), "_segment_reduce"),
        (lambda o, t: torch.special.zeta(o.exp() + 2, o.new_ones(1)).sum(1), "zeta"),
    ],
)
def test_what_has_no_equal_is_refused_by_name(loss, op: str):
    problem: Problem = problem_of(
        Coordinates(torch.randn(1, 3, dtype=torch.float64)), (torch.zeros(2, 1).double(), torch.arange(2)), loss
    )
    with pytest.raises(NumericalError, match=op) as caught:
        problem.hvp(problem.weights)
    assert caught.value.exit_code == 4
