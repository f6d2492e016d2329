"""Losses of torch are the likelihoods that they are: the Fisher matrix is that of the prediction."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from cases import domain_data, problem_of, small_mlp
from torch import Tensor, nn

from landscape.base.errors import UsageError
from landscape.curvature.operators import operator_of


def by_hand(model: nn.Module, x: Tensor, chosen: Tensor) -> Tensor:
    """(1/k) Σ Σ_y p_y ∇log p_y ∇log p_yᵀ over the k chosen examples, label by label in plain autograd."""
    parameters = list(model.parameters())
    total = torch.zeros(())
    for one in x[chosen]:
        logs = F.log_softmax(model(one[None])[0], 0)
        for value in logs:
            g = torch.cat([t.reshape(-1) for t in torch.autograd.grad(value, parameters, retain_graph=True)])
            total = total + value.detach().exp() * torch.outer(g, g)
    return total / int(chosen.sum())


def data() -> tuple[Tensor, Tensor]:
    pools = domain_data().values()
    return torch.cat([p[0] for p in pools]), torch.cat([p[1] for p in pools])


EVERY = torch.ones(42, dtype=torch.bool)
LOSSES = {
    "plain": (nn.CrossEntropyLoss(), None),
    "smoothed": (nn.CrossEntropyLoss(label_smoothing=0.3), None),
    "ignoring": (nn.CrossEntropyLoss(ignore_index=1), 1),
    "smoothed and ignoring": (nn.CrossEntropyLoss(label_smoothing=0.2, ignore_index=2), 2),
    "function": (F.cross_entropy, None),
}


@pytest.mark.parametrize("kind", list(LOSSES))
def test_fisher_of_cross_entropies_of_torch(kind: str):
    loss, ignored = LOSSES[kind]
    x, y = data()
    expected = by_hand(small_mlp(), x, EVERY if ignored is None else y != ignored)
    problem = problem_of(small_mlp(), (x, y), loss, batch_size=8)
    assert torch.allclose(operator_of(problem, "fisher").dense(), expected, atol=1e-13)
    drawn = operator_of(problem, "fisher-mc", samples=100).dense()
    assert float((drawn - expected).norm() / expected.norm()) < 0.2


def test_fisher_of_a_loss_per_example_is_that_of_its_mean():
    x, y = data()
    found = operator_of(problem_of(small_mlp(), (x, y), nn.CrossEntropyLoss(reduction="none")), "fisher").dense()
    assert torch.allclose(found, by_hand(small_mlp(), x, EVERY), atol=1e-13)


def test_fisher_of_nll_with_an_ignored_class():
    """The network gives log-probabilities; examples of class 2 count for nothing."""
    x, y = data()
    model = nn.Sequential(small_mlp(), nn.LogSoftmax(1))
    problem = problem_of(model, (x, y), nn.NLLLoss(ignore_index=2), batch_size=8)
    expected = by_hand(small_mlp(), x, y != 2)
    assert torch.allclose(operator_of(problem, "fisher").dense(), expected, atol=1e-13)
    drawn = operator_of(problem, "fisher-mc", samples=100).dense()
    assert float((drawn - expected).norm() / expected.norm()) < 0.2


@pytest.mark.parametrize(("loss", "name"), [(nn.MSELoss(), "mse"), (nn.BCEWithLogitsLoss(), "bce_with_logits")])
def test_modules_are_what_their_names_are(loss: nn.Module, name: str):
    x = data()[0]
    y = (small_mlp()(x).detach() > 0).double()
    for kind in ("fisher", "fisher-mc"):
        a, b = (operator_of(problem_of(small_mlp(), (x, y), one), kind).dense() for one in (loss, name))
        assert torch.equal(a, b)


class Focal(nn.CrossEntropyLoss):
    """No likelihood, though it descends from one."""

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        each = F.cross_entropy(output, target, reduction="none")
        focal = (1 - torch.exp(-each)) ** 2 * each
        return focal.mean() if self.reduction == "mean" else focal


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]).double()), "CrossEntropyLoss with weight is no"),
        (nn.NLLLoss(weight=torch.ones(3).double()), "NLLLoss with weight is no"),
        (nn.BCEWithLogitsLoss(pos_weight=torch.ones(3).double()), "BCEWithLogitsLoss with pos_weight is no"),
        (Focal(), "'Focal' is no likelihood known here"),
    ],
)
@pytest.mark.parametrize("kind", ["fisher", "fisher-mc"])
def test_what_is_no_likelihood_is_refused(loss: nn.Module, words: str, kind: str):
    x, y = data()
    target = F.one_hot(y, 3).double() if isinstance(loss, nn.BCEWithLogitsLoss) else y
    with pytest.raises(UsageError, match=words + r".*use ggn"):
        operator_of(problem_of(small_mlp(), (x, target), loss), kind)
