"""Second derivatives of operations that torch gets wrong, lacks, or changes the model with."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from cases import Coordinates, problem_of
from torch import Tensor, nn
from torch.nn.utils import parametrizations, weight_norm

from landscape.autograd.substitutes import twice_differentiable
from landscape.base.errors import NumericalError, UsageError
from landscape.problem.problem import Problem

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
            with problem.temporary_weights() as tensors:
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

    with pytest.raises(UsageError, match="the forward pass writes into the weights table"):
        problem_of(Renormalising(), (TOKENS, LABELS))


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
        Coordinates(torch.randn(1, 3, dtype=torch.float64)),
        (torch.zeros(2, 1).double(), torch.arange(2)),
        loss,
        loss_over="batch",
        product="exact",
    )
    with pytest.raises(NumericalError, match=op) as caught:
        problem.hvp(problem.weights)
    assert caught.value.exit_code == 4


# -- the same function under several names, and others under the same name -----------------------------------------


def wave(*shape: int) -> Tensor:
    return torch.sin(1.7 * torch.arange(int(torch.tensor(shape).prod()), dtype=torch.float64) ** 1.2).reshape(shape)


X, W, S = wave(5, 6), wave(6), wave(6).abs() + 0.5
NN, ATEN = torch._C._nn, torch.ops.aten
INDEX, OFFSETS = torch.tensor([1, 0, 4, 3, 3, 2]), torch.tensor([0, 2, 5])
CALLS = {
    "F.batch_norm": (lambda x: F.batch_norm(x, W, S, S, W), "batch_norm"),
    "F.batch_norm, by name": (lambda x: F.batch_norm(x, running_var=S, running_mean=W, eps=0.1), "batch_norm"),
    "torch.batch_norm": (lambda x: torch.batch_norm(x, S, W, W, S, False, 0.1, 1e-5, True), "batch_norm"),
    "torch.batch_norm, by name": (
        lambda x: torch.batch_norm(
            input=x,
            weight=None,
            bias=None,
            running_mean=W,
            running_var=S,
            training=False,
            momentum=0.1,
            eps=1e-5,
            cudnn_enabled=False,
        ),
        "batch_norm",
    ),
    "aten.batch_norm": (lambda x: ATEN.batch_norm(x, S, W, W, S, False, 0.1, 1e-5, True), "batch_norm"),
    "F.hardsigmoid": (F.hardsigmoid, "hardsigmoid"),
    "nn.hardsigmoid": (NN.hardsigmoid, "hardsigmoid"),
    "nn.hardsigmoid, by name": (lambda x: NN.hardsigmoid(input=x), "hardsigmoid"),
    "aten.hardsigmoid.default": (ATEN.hardsigmoid.default, "hardsigmoid"),
    "aten.hardsigmoid, by name": (lambda x: ATEN.hardsigmoid(self=x), "hardsigmoid"),
    "F.embedding": (lambda x: F.embedding(INDEX % 5, x, sparse=True), "embedding"),
    "torch.embedding": (lambda x: torch.embedding(x, INDEX % 5, 2, False, True), "embedding"),
    "torch.embedding, by name": (lambda x: torch.embedding(indices=INDEX % 5, weight=x, sparse=True), "embedding"),
    "aten.embedding": (lambda x: ATEN.embedding(x, INDEX % 5, scale_grad_by_freq=True), "embedding"),
    "F.embedding_bag": (lambda x: F.embedding_bag(INDEX, x, OFFSETS, mode="mean"), "embedding_bag"),
    "torch.embedding_bag": (lambda x: torch.embedding_bag(x, INDEX, OFFSETS, False, 2)[0], "embedding_bag"),
    "torch.embedding_bag, the rest": (lambda x: torch.embedding_bag(x, INDEX, OFFSETS)[1], "embedding_bag"),
    "torch.embedding_bag, padded": (
        lambda x: torch.embedding_bag(x, INDEX, OFFSETS, False, 1, False, None, False, -2)[0],
        "embedding_bag",
    ),
    "torch.cdist": (lambda x: torch.cdist(x, x.flip(1), compute_mode="donot_use_mm_for_euclid_dist"), "cdist"),
    "torch.cdist, by name": (lambda x: torch.cdist(x2=x.flip(1), x1=x, p=3.0), "cdist"),
    "VF.cdist": (lambda x: torch._VF.cdist(x, x.flip(1), 1.0, None), "cdist"),
    "torch.pdist": (lambda x: torch.pdist(x, p=3), "pdist"),
    "torch.pdist, by name": (lambda x: torch.pdist(input=x), "pdist"),
    "Tensor.logcumsumexp": (lambda x: x.logcumsumexp(dim=1), "logcumsumexp"),
    "torch.logcumsumexp": (lambda x: torch.logcumsumexp(x, -2), "logcumsumexp"),
    "torch.logcumsumexp, by name": (lambda x: torch.logcumsumexp(input=x, dim=0), "logcumsumexp"),
    "torch._weight_norm": (lambda x: torch._weight_norm(x, S[:5, None], 0), "weight_norm"),
    "torch._weight_norm, by name": (lambda x: torch._weight_norm(g=S[None], v=x, dim=1), "weight_norm"),
    "F.multi_margin_loss": (lambda x: F.multi_margin_loss(x, INDEX[:5], margin=0.3), "multi_margin_loss"),
    "nn.multi_margin_loss": (lambda x: NN.multi_margin_loss(x, INDEX[:5], 2, 0.3, S, 0), "multi_margin_loss"),
    "nn.multilabel_margin_loss": (
        lambda x: NN.multilabel_margin_loss(x, INDEX.expand(5, 6), reduction=2),
        "multilabel_margin_loss",
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_each_function_is_read_with_its_own_arguments(name: str):
    call, operation = CALLS[name]
    used: set[str] = set()
    x = X.clone().requires_grad_()
    with twice_differentiable(used):
        ours = call(x)
    plain = call(X.clone())
    assert used == {operation}
    assert ours.shape == plain.shape
    assert ours.dtype == plain.dtype
    assert torch.allclose(ours, plain, rtol=1e-12, atol=1e-14)
    if ours.is_floating_point():
        (slope,) = torch.autograd.grad(ours.square().sum(), x, create_graph=True)
        assert slope.requires_grad
        assert torch.isfinite(torch.autograd.grad(slope.sum(), x)[0]).all()


def test_functions_of_others_with_the_same_names_are_left_alone():
    library = torch.library.Library("landscape_test", "DEF")
    library.define("batch_norm(Tensor x, Tensor a, Tensor b) -> Tensor")
    library.impl("batch_norm", lambda x, a, b: x * a + b, "CompositeImplicitAutograd")

    def hardsigmoid(x: Tensor) -> Tensor:
        if torch.overrides.has_torch_function_unary(x):
            return torch.overrides.handle_torch_function(hardsigmoid, (x,), x)
        return 5 * x

    used: set[str] = set()
    with twice_differentiable(used):
        assert torch.equal(torch.ops.landscape_test.batch_norm(X, S, W), X * S + W)
        assert torch.equal(hardsigmoid(X), 5 * X)
    assert not used


@pytest.mark.parametrize(
    "write",
    [
        lambda x: F.hardsigmoid(x, inplace=True),
        nn.Hardsigmoid(inplace=True),
        NN.hardsigmoid_,
        ATEN.hardsigmoid_,
        lambda x: F.hardsigmoid(x[:, 1:3], inplace=True),
    ],
    ids=["F", "module", "nn", "aten", "a view"],
)
def test_what_is_written_in_place_is_written(write):
    """The loss was 0.830 where it is 0.814: the input stayed as it was."""

    class Written(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            z = self.first(x)
            write(z)
            return self.last(z * z)

    x = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    model = Written().double()
    used: set[str] = set()
    with twice_differentiable(used):
        ours = model(x)
    assert used == {"hardsigmoid"}
    assert torch.allclose(ours, model(x), rtol=1e-13, atol=1e-15)
    problem = problem_of(model, (x, LABELS))
    v = torch.cos(torch.arange(problem.n_parameters, dtype=torch.float64))
    ends = []
    for sign in (1, -1):
        with problem.temporary_weights() as tensors:
            for tensor, part in zip(tensors, problem.space.split(v), strict=True):
                tensor.add_(part, alpha=sign * 1e-5)
            ends.append(problem.gradient())
    expected = (ends[0] - ends[1]) / 2e-5
    assert torch.allclose(problem.hvp(v), expected, rtol=1e-6, atol=1e-9)


def test_what_is_written_into_a_given_tensor_is_left_to_torch():
    out = torch.empty_like(X)
    used: set[str] = set()
    with twice_differentiable(used):
        torch.logcumsumexp(X, 1, out=out)
        NN.hardsigmoid(X, out=out[:, :6])
    assert torch.equal(out, F.hardsigmoid(X))
    assert not used


def test_an_equal_form_of_another_value_is_refused_by_name(monkeypatch: pytest.MonkeyPatch):
    from landscape.autograd import equal_forms

    wrong = dict(equal_forms.FORMS)
    wrong[F.hardsigmoid] = equal_forms.Form("hardsigmoid", lambda input, inplace=False: F.relu6(input + 3) / 5.9)
    monkeypatch.setattr("landscape.autograd.substitutes.FORMS", wrong)
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 5), nn.Hardsigmoid(), nn.Linear(5, 3))
    x = torch.randn(3, 4)
    for dtype in ("float32", "float64"):
        problem = problem_of(model, (x, LABELS), dtype=dtype, product="exact")
        for _ in range(2):  # not only once
            with pytest.raises(NumericalError, match=r"^hardsigmoid gives the loss .* in its equal form") as caught:
                problem.hvp(problem.weights)
            assert caught.value.exit_code == 4


@pytest.mark.parametrize("inner", [True, False])
def test_the_context_of_a_checkpoint_is_kept(inner: bool):
    """It may change what is computed, here by doubling every tanh."""
    from torch.overrides import TorchFunctionMode
    from torch.utils.checkpoint import checkpoint

    class Doubling(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            value = func(*args, **(kwargs or {}))
            return 2 * value if func is torch.tanh else value

    def run(x: Tensor) -> Tensor:
        return checkpoint(torch.tanh, x, use_reentrant=False, context_fn=lambda: (Doubling(), Doubling()))

    x = X.clone().requires_grad_(inner)
    with twice_differentiable(set()):
        assert torch.equal(run(x), 2 * torch.tanh(x))
