"""`BatchLoss.of_examples` against what `problems` and DISAM's paper say of the losses of domains."""

from __future__ import annotations

import pytest
import torch

from landscape.base.errors import UsageError
from landscape.optim import DISAM, BatchLoss


def test_means_and_counts_of_domains():
    each = torch.tensor([1.0, 2.0, 4.0, 9.0], dtype=torch.float64, requires_grad=True)
    domain = torch.tensor([2, 0, 2, 0])
    present = BatchLoss.of_examples(each, domain)
    assert present.domains is not None
    assert present.counts is not None
    assert (present.mean.item(), present.domains.tolist(), present.counts.tolist()) == (4.0, [5.5, 2.5], [2, 2])
    every = BatchLoss.of_examples(each, domain, 4)
    assert every.domains is not None
    assert every.domains.tolist() == [5.5, 0.0, 2.5, 0.0]
    (gradient,) = torch.autograd.grad(every.domains[2], each)
    assert gradient.tolist() == [0.5, 0.0, 0.5, 0.0]


def test_a_loss_that_is_not_finite_stays_in_its_domain():
    found = BatchLoss.of_examples(torch.tensor([1.0, torch.inf, 3.0]), torch.tensor([0, 1, 0]), 2).domains
    assert found is not None
    assert found.tolist() == [2.0, torch.inf]


def test_domains_that_are_missing_change_no_step():
    """Accumulated micro-batches name all domains; the step is the one over those that are present."""

    def step(domains: int | None) -> torch.Tensor:
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 1).double()
        x, domain = torch.randn(8, 3, dtype=torch.float64), torch.tensor([0, 0, 3, 3, 3, 3, 3, 0])
        optimizer = DISAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.2, lam=0.5)
        optimizer.step(lambda: BatchLoss.of_examples(model(x).square().squeeze(1), domain, domains))
        return model.weight.detach()

    assert torch.allclose(step(None), step(5), rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("each", "domain", "domains", "words"),
    [
        (torch.ones(3), torch.zeros(2, dtype=torch.int64), None, r"losses of shape \(3,\) and domains of \(2,\)"),
        (torch.ones(()), torch.zeros((), dtype=torch.int64), None, "give one loss"),
        (torch.ones(2), torch.zeros(2), None, "float32"),
        (torch.ones(2), torch.tensor([0, 2]), 2, "domains from 0 to 2.*below 2"),
        (torch.ones(2), torch.tensor([-1, 0]), 2, "domains from -1 to 0"),
    ],
)
def test_what_is_no_domain_is_refused(each: torch.Tensor, domain: torch.Tensor, domains: int | None, words: str):
    with pytest.raises(UsageError, match=words):
        BatchLoss.of_examples(each, domain, domains)
