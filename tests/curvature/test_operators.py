from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import Limited, dense, domain_data, mean_cross_entropy, problem_of, small_mlp
from scipy.sparse.linalg import eigsh
from torch import Tensor, nn

from landscape.base.errors import UsageError
from landscape.curvature.operators import operator_of
from landscape.data.losses import nll
from landscape.problem.products import Products, hessian_of_batch
from landscape.specs import HessianSpec


def pooled() -> tuple[nn.Module, Tensor, Tensor]:
    data = domain_data()
    return small_mlp(), torch.cat([d[0] for d in data.values()]), torch.cat([d[1] for d in data.values()])


def jacobian(model: nn.Module, x: Tensor) -> Tensor:
    """Of all outputs of every example, ``(n, outputs, parameters)``, one output at a time."""
    parameters, z = list(model.parameters()), model(x)
    rows = [
        torch.cat([g.reshape(-1) for g in torch.autograd.grad(value, parameters, retain_graph=True)])
        for value in z.reshape(-1)
    ]
    return torch.stack(rows).view(*z.shape, -1)


def matrices(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Every operator of a softmax classifier, written out."""
    _, gradient, hessian = dense(model, x, y)
    j, p = jacobian(model, x), model(x).softmax(1).detach()
    b = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    ggn = torch.einsum("ica,icd,idb->ab", j, b, j) / len(x)
    each = torch.einsum("ica,ic->ia", j, p - F.one_hot(y, 3))
    second = each.T @ each / len(x)
    return {
        "hessian": hessian,
        "ggn": ggn,
        "fisher": ggn,  # softmax: equal (Martens 2020)
        "empirical-fisher": second,
        "gradient-covariance": second - torch.outer(gradient, gradient),
    }


KINDS = ["hessian", "ggn", "fisher", "empirical-fisher", "gradient-covariance"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("memory", [None, 5000, 0], ids=["kept", "some kept", "rebuilt"])
def test_every_operator_is_its_matrix(kind: str, memory: int | None):
    """42 examples in ragged micro-batches of 8."""
    model, x, y = pooled()
    operator = operator_of(problem_of(model, domain_data(), batch_size=8), kind, memory=memory)
    assert (operator.dense() - matrices(model, x, y)[kind]).abs().max() < 1e-14
    assert operator.count == operator.n == 57
    share = operator.facts()["kept_share_of_batches"]
    assert share == {None: 1, 0: 0}.get(memory, share)
    assert memory != 5000 or 0 < share < 1
    assert operator.facts()["kept_graph_bytes"] <= (memory if memory is not None else np.inf)


@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_that_gives_only_the_mean_has_the_same_matrices(kind: str):
    if kind == "fisher":
        with pytest.raises(UsageError, match=r"no likelihood known here.*`operator=`.*use ggn"):
            operator_of(problem_of(small_mlp(), domain_data(), mean_cross_entropy), kind)
        return
    a = operator_of(problem_of(small_mlp(), domain_data(), batch_size=8), kind).dense()
    b = operator_of(problem_of(small_mlp(), domain_data(), mean_cross_entropy, batch_size=8), kind).dense()
    assert torch.allclose(a, b, atol=1e-14)


def test_drawn_labels_have_the_fisher_matrix_as_their_mean():
    model, x, y = pooled()
    exact = matrices(model, x, y)["fisher"]
    errors = {}
    for samples in (50, 800):
        drawn = operator_of(problem_of(model, (x, y), batch_size=8), "fisher-mc", samples=samples).dense()
        errors[samples] = float((drawn - exact).norm() / exact.norm())
    assert errors[50] < 0.15
    assert errors[800] < 0.4 * errors[50]  # falls like one over the root


def test_drawn_labels_belong_to_examples_not_to_batches():
    a, b, c = (
        operator_of(
            problem_of(small_mlp(), domain_data(), batch_size=size), "fisher-mc", samples=3, seed=seed
        ).dense()
        for size, seed in ((42, 0), (5, 0), (42, 1))
    )
    assert torch.allclose(a, b, atol=1e-15)
    assert not torch.allclose(a, c, atol=1e-3)


@pytest.mark.parametrize(("loss", "outputs"), [("mse", 3), ("bce_with_logits", 1), ("bce_with_logits", 2)])
def test_fisher_of_other_likelihoods(loss: str, outputs: int):
    """Gaussian and logistic: type 2 is the Gauss-Newton matrix, and drawn labels agree with it."""
    model = small_mlp(classes=outputs)
    x = domain_data()["cartoon"][0]
    y = (model(x).detach() > 0.2).double()
    problem = problem_of(model, (x, y), loss, batch_size=8)
    j = jacobian(model, x)
    z = model(x).detach()
    diagonal = torch.full_like(z, 2) if loss == "mse" else z.sigmoid() * (1 - z.sigmoid())
    expected = torch.einsum("ica,ic,icb->ab", j, diagonal / outputs, j) / len(x)
    assert torch.allclose(operator_of(problem, "fisher").dense(), expected, atol=1e-14)
    assert torch.allclose(operator_of(problem, "ggn").dense(), expected, atol=1e-14)
    drawn = operator_of(problem, "fisher-mc", samples=1500).dense()
    assert float((drawn - expected).norm() / expected.norm()) < 0.06


def test_fisher_of_log_probabilities_is_not_the_gauss_newton_matrix():
    """The loss is linear in log-probabilities: Gauss-Newton is 0, the Fisher matrix is not."""
    model = nn.Sequential(small_mlp(), nn.LogSoftmax(1))
    _, x, y = pooled()
    problem = problem_of(model, (x, y), nll, batch_size=8)
    assert operator_of(problem, "ggn").dense().abs().max() == 0
    assert torch.allclose(operator_of(problem, "fisher").dense(), matrices(small_mlp(), x, y)["fisher"], atol=1e-14)


def test_tokens_that_do_not_count_count_nowhere():
    """Two predictions per example, some ignored: every matrix is a mean over those that count."""
    torch.manual_seed(0)
    model = nn.Linear(4, 3).double()
    x, y = torch.randn(9, 5, 4).double(), torch.randint(0, 3, (9, 5))
    y[::2, 2:] = -100
    y[3] = -100
    y[3, 0] = 1
    counted = y != -100
    flat = problem_of(model, (x[counted], y[counted]))
    tokens = problem_of(model, (x, y), "token_cross_entropy", batch_size=4)
    for kind in ("hessian", "ggn", "fisher"):
        assert torch.allclose(operator_of(tokens, kind).dense(), operator_of(flat, kind).dense(), atol=1e-14)
    exact = operator_of(flat, "fisher").dense()
    drawn = operator_of(tokens, "fisher-mc", samples=1500).dense()
    assert float((drawn - exact).norm() / exact.norm()) < 0.06


def test_domains_with_weights():
    data, model = domain_data(), small_mlp()
    problem = problem_of(model, data, batch_size=8)
    weights = {"photo": 0.7, "art": -0.2}
    expected = sum(w * dense(model, *data[name])[2] for name, w in weights.items())
    with operator_of(problem, domain_weights=weights) as mixture:
        assert torch.allclose(mixture.dense(), expected, atol=1e-14)
    shares = {name: len(d[1]) / 42 for name, d in data.items()}
    whole = operator_of(problem).dense()
    assert torch.allclose(operator_of(problem, domain_weights=shares).dense(), whole, atol=1e-14)
    with pytest.raises(UsageError, match="no domain has a weight"):
        operator_of(problem, domain_weights={})
    with pytest.raises(UsageError, match="watercolour"):
        operator_of(problem, domain_weights={"watercolour": 1})


def test_scipy_sees_the_same_matrix():
    model, x, y = pooled()
    operator = operator_of(problem_of(model, (x, y), batch_size=8))
    found = eigsh(operator.to_scipy(), k=3, which="LA", return_eigenvectors=False)
    assert np.sort(found) == pytest.approx(torch.linalg.eigvalsh(dense(model, x, y)[2])[-3:].numpy(), rel=1e-10)


def test_unknown_operators_are_refused():
    with pytest.raises(UsageError, match=r"unknown operator 'jacobian'.*there is: hessian, ggn"):
        operator_of(problem_of(small_mlp(), domain_data()), "jacobian")


# -- what is kept, and when it is let go of --------------------------------------------------------------------------


def builds(problem: object, **options: object) -> tuple[Products, list[int]]:
    """Products that note the first example of every graph they build."""
    made: list[int] = []

    def build(p, batch, start):
        made.append(start)
        return hessian_of_batch(p, batch, start)

    return Products(problem, build, **options), made


def test_graphs_are_built_once_while_they_fit():
    problem = problem_of(small_mlp(), domain_data(), batch_size=16)
    products, made = builds(problem)
    v = torch.ones(57).double()
    first = products(v)
    assert torch.equal(products(v), first)
    assert made == [0, 16, 32]
    products, made = builds(problem, memory=0)
    assert torch.equal(products(v), first)
    products(v)
    assert made == [0, 16, 32] * 2


def test_a_written_weight_makes_kept_graphs_stale():
    problem = problem_of(small_mlp(), domain_data(), batch_size=16)
    products, made = builds(problem)
    v = torch.ones(57).double()
    at_home = products(v)
    with problem.temporary_weights() as tensors:
        for t in tensors:
            t.add_(0.1)
        away = problem.hvp(v)
        moved = Products(problem)(v)
        assert torch.equal(products(v), moved)
    assert torch.equal(moved, away)
    assert not torch.allclose(away, at_home, atol=1e-3)
    assert away.norm() > 0.1 * at_home.norm()  # and not the zero of a place without gradients
    assert torch.equal(products(v), at_home)
    assert len(made) == 9


def test_memory_that_ends_costs_first_the_graphs_then_the_batches():
    model, x, y = pooled()
    operator = operator_of(problem_of(Limited(model, 10), (x, y)))
    assert (operator.dense() - dense(model, x, y)[2]).abs().max() < 1e-14
    assert operator.problem.batch_size <= 10
    assert operator.facts()["memory_budget"] == 0


def test_a_closed_operator_holds_no_graph():
    problem = problem_of(small_mlp(), domain_data())
    products = Products(problem)
    with products:
        products(torch.ones(57).double())
        held = weakref.ref(products._kept[0].apply)
        assert held() is not None
    gc.collect()
    assert held() is None
    assert problem.space.tensors[0].grad is None


def test_what_autograd_saves_is_counted_and_freed():
    """Saved-tensor hooks that return an output itself close a reference cycle: its graph would never be freed."""
    freed = []

    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = small_mlp()

        def forward(self, x: Tensor) -> Tensor:
            hidden = torch.tanh(self.net[0](x))  # saves its output
            if hidden.requires_grad:

                def hook(gradient: Tensor) -> None:
                    """Lives as long as the graph."""

                hidden.register_hook(hook)
                weakref.finalize(hook, freed.append, True)
            return self.net[2](hidden)

    products = Products(problem_of(Watched(), domain_data()))
    products(torch.ones(57).double())
    freed.clear()  # graphs of the checks before
    activations = 42 * (6 + 3) * 8
    assert products.facts()["kept_graph_bytes"] > activations
    gc.disable()
    try:
        assert not freed
        products.drop()
        assert freed == [True]
    finally:
        gc.enable()


class Tokens(nn.Module):
    """Predictions at six places, which share weights."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.embed, self.head = nn.Embedding(7, 4, dtype=torch.float64), nn.Linear(4, classes, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.embed(x)))


class Channels(Tokens):
    """The same with classes second."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).transpose(1, 2)


def moments(model: nn.Module, losses: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """(1/Σw) Σ w g gᵀ and the covariance, from each unit's loss and weight."""
    weights = torch.stack([w for _, w in losses]).double()
    gradients = [torch.autograd.grad(value, model.parameters(), retain_graph=True) for value, _ in losses]
    each = torch.stack([torch.cat([part.reshape(-1) for part in g]) for g in gradients])
    mean = weights @ each / weights.sum()
    second = each.T @ (weights[:, None] * each) / weights.sum()
    return {"empirical-fisher": second, "gradient-covariance": second - torch.outer(mean, mean)}


CLASS_WEIGHTS = [None, (2.0, 2.0, 2.0), (0.5, 1.0, 3.0)]


@pytest.mark.parametrize("kind", ["empirical-fisher", "gradient-covariance"])
@pytest.mark.parametrize("weights", CLASS_WEIGHTS, ids=str)
def test_gradients_of_examples_weigh_what_the_loss_weighs(kind: str, weights: tuple[float, ...] | None):
    """Equal class weights change nothing: Σ w g gᵀ / Σ w, not Σ w² g gᵀ / Σ w."""
    model, x, y = pooled()
    weight = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    loss = nn.CrossEntropyLoss(weight=weight)
    found = operator_of(problem_of(model, (x, y), loss, batch_size=8), kind).dense()
    each = F.cross_entropy(model(x), y, reduction="none")
    of = [(v, torch.tensor(1.0) if weight is None else weight[c]) for v, c in zip(each, y, strict=True)]
    assert (found - moments(model, of)[kind]).abs().max() < 1e-13
    if weights == CLASS_WEIGHTS[1]:
        plain = operator_of(problem_of(model, (x, y), "cross_entropy"), kind).dense()
        assert (found - plain).abs().max() < 1e-13


@pytest.mark.parametrize("unit", ["example", "prediction"])
@pytest.mark.parametrize("kind", ["empirical-fisher", "gradient-covariance"])
@pytest.mark.parametrize("loss", ["token_cross_entropy", "causal_lm", "cross_entropy", "weighted"])
def test_gradients_of_examples_and_of_predictions(loss: str, kind: str, unit: str):
    """Ragged texts: what is ignored weighs nothing, and a longer text more."""
    g = torch.Generator().manual_seed(1)
    x, y = torch.randint(7, (9, 6), generator=g), torch.randint(3, (9, 6), generator=g)
    y[2, 3:] = y[5, :4] = -100
    classes = 7 if loss == "causal_lm" else 3
    model = (Channels if loss in ("cross_entropy", "weighted") else Tokens)(classes)
    weight = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)
    if loss == "causal_lm":
        y = x.clone()
        y[2, 3:] = -100
    function = nn.CrossEntropyLoss(weight=weight) if loss == "weighted" else loss
    problem = problem_of(model, (x, y), function, batch_size=4)
    found = operator_of(problem, kind, unit=unit).dense()
    logits = model(x) if classes == 7 or not isinstance(model, Channels) else model(x).transpose(1, 2)
    targets, logits = (y[:, 1:], logits[:, :-1]) if loss == "causal_lm" else (y, logits)
    each = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none", ignore_index=-100)
    places = (targets != -100).double() * (weight[targets.clamp(min=0)] if loss == "weighted" else 1)
    if unit == "prediction":
        of = [(each[i, t], places[i, t]) for i in range(9) for t in range(each.shape[1]) if places[i, t] > 0]
    else:
        of = [((each[i] * places[i]).sum() / places[i].sum(), places[i].sum()) for i in range(9)]
    assert (found - moments(model, of)[kind]).abs().max() < 1e-12


def test_six_equal_tokens_are_one_example_six_times():
    """The gradient of a text of equal tokens is that of one of them: so is its square."""
    x = torch.arange(5)[:, None].expand(5, 6).contiguous()
    y = torch.tensor([0, 1, 2, 0, 1])[:, None].expand(5, 6).contiguous()
    one = operator_of(problem_of(Tokens(), (x[:, :1], y[:, :1]), "token_cross_entropy"), "empirical-fisher").dense()
    for unit in ("example", "prediction"):
        six = operator_of(problem_of(Tokens(), (x, y), "token_cross_entropy"), "empirical-fisher", unit=unit).dense()
        assert (six - one).abs().max() < 1e-13


def test_a_unit_that_nobody_knows_is_refused():
    with pytest.raises(UsageError, match=r"hessian has no gradients of single examples.*`unit=`"):
        HessianSpec(unit="prediction")
    with pytest.raises(UsageError, match="'token'"):
        HessianSpec(operator="empirical-fisher", unit="token")

    def own(output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output.transpose(1, 2), target, reduction="none").mean(1)

    x, y = torch.zeros(4, 6, dtype=torch.long), torch.zeros(4, 6, dtype=torch.long)
    with pytest.raises(UsageError, match=r"does not say what each prediction weighs.*`unit='example'`"):
        operator_of(problem_of(Tokens(), (x, y), own), "empirical-fisher", unit="prediction").dense()
