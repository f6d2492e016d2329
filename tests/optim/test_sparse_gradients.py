"""Sparse gradients of embeddings: the method of the dense ones, and the base gets what it asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from landscape.base.errors import UsageError
from landscape.optim import ERM, SAM, BatchLoss, MicroBatches

from .problems import METHODS, NEED_DOMAINS, Nothing

ROWS = 12


def table(sparse: bool) -> nn.Embedding:
    torch.manual_seed(0)
    return nn.Embedding(ROWS, 3, sparse=sparse).double()


def closure_of(model: nn.Embedding, words: list[int]) -> Callable[[], BatchLoss]:
    t = torch.tensor(words)  # some twice: the gradient is not coalesced

    def closure() -> BatchLoss:
        each = (model(t) - 0.3).pow(4).sum(1) + model(t).prod(1)
        return BatchLoss(each.mean(), torch.stack([each[:2].mean(), each[2:].mean()]), torch.tensor([2, len(t) - 2]))

    return closure


BATCHES = [[1, 4, 4, 7], [0, 1, 4], [9, 9, 9, 2, 1], [4, 7, 5]]


def ends(method: str, sparse: bool, own: bool = False, **common: Any) -> Tensor:
    model = table(sparse)
    optimizer = METHODS[method](torch.optim.SGD(model.named_parameters(), lr=0.02), rho=0.3, **common)

    def step(words: list[int]) -> None:
        plain = closure_of(model, words)

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = plain().mean
            loss.backward()
            return loss

        optimizer.step(closure if own else plain)

    for words in BATCHES:
        step(words)
        assert model.weight.grad.is_sparse == sparse
    assert float((model.weight - table(sparse).weight).detach().abs().max()) > 1e-4
    return model.weight.detach()


@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("option", ["plain", "clip", "scaler"])
def test_every_method_moves_as_with_dense_gradients(method: str, option: str):
    def common() -> dict[str, Any]:
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**6)
        return {"plain": {}, "clip": {"clip": 0.05}, "scaler": {"scaler": scaler}}[option]

    assert float((ends(method, True, **common()) - ends(method, False, **common())).abs().max()) < 1e-14


@pytest.mark.parametrize("method", [m for m in METHODS if m not in NEED_DOMAINS])
def test_also_with_a_closure_of_torchs_convention(method: str):
    assert float((ends(method, True, own=True) - ends(method, False, own=True)).abs().max()) < 1e-14


@pytest.mark.parametrize("method", list(METHODS))
def test_sparse_adam_moves_as_when_it_is_handed_the_update_gradient(method: str):
    """The gradient that a dense run hands over, with the rows of the batch; SparseAdam has no row more or less."""
    model, twin = table(True), table(False)
    optimizer = METHODS[method](torch.optim.SparseAdam(list(model.named_parameters()), lr=0.1), rho=0.3)
    base = Nothing(twin.named_parameters())
    dense = METHODS[method](base, rho=0.3)
    plain = table(True)
    by_hand = torch.optim.SparseAdam(list(plain.parameters()), lr=0.1)
    for words in BATCHES[:2]:
        optimizer.step(closure_of(model, words))
        dense.step(closure_of(twin, words))
        g = base.seen[-1][0]
        rows = torch.tensor(sorted(set(words) | set(g.abs().sum(1).nonzero().flatten().tolist())))
        if method == "wsam":  # its base gets g; the rest is a plain step of the learning rate
            rows = torch.tensor(sorted(set(words)))
        plain.weight.grad = torch.sparse_coo_tensor(rows[None], g[rows], g.shape, check_invariants=True)
        by_hand.step()
        if method != "wsam":
            assert float((model.weight - plain.weight).detach().abs().max()) < 1e-13
        with torch.no_grad():  # both go on from the same place
            twin.weight.copy_(model.weight)
            plain.weight.copy_(model.weight)
    untouched = [i for i in range(ROWS) if i not in BATCHES[0] + BATCHES[1]]
    if method != "entropy-sgd":
        assert torch.equal(model.weight[untouched], table(True).weight[untouched])


@pytest.mark.parametrize("method", ["sam", "gsam", "sagm", "disam"])
@pytest.mark.parametrize("micro_batches", [True, False])
def test_pieces_of_sparse_gradients(method: str, micro_batches: bool):
    found = []
    for sparse in (True, False):
        model = table(sparse)
        base = torch.optim.SGD(model.named_parameters(), lr=0.02)
        optimizer = METHODS[method](base, rho=0.3, micro_batches=micro_batches)
        for _ in range(3):
            parts = [closure_of(model, BATCHES[0]), closure_of(model, BATCHES[2])]
            optimizer.step(lambda parts=parts: MicroBatches(parts, [4, 5]))
        found.append(model.weight.detach())
    assert float((found[0] - found[1]).abs().max()) < 1e-14


def test_decay_in_the_passes_reaches_every_row():
    found = []
    for sparse in (True, False):
        model = table(sparse)
        base = torch.optim.SGD(model.named_parameters(), lr=0.1, weight_decay=0.5)
        SAM(base, rho=0.3, weight_decay_in_perturbation=True).step(closure_of(model, BATCHES[0]))
        found.append(model.weight.detach())
    assert float((found[0] - found[1]).abs().max()) < 1e-14
    assert float((found[0] - table(True).weight.detach()).abs().min()) > 0


def test_a_row_whose_gradient_happens_to_be_zero_is_handed_over():
    """SparseAdam lets the moments of a touched row decay, and moves it."""
    model = table(True)
    base = Nothing(model.parameters())
    ERM(base).step(lambda: BatchLoss((model(torch.tensor([3, 5])) * torch.tensor([[0.0], [1.0]])).sum()))
    g = base.seen[0][0]
    assert g.is_coalesced()
    assert g.indices().tolist() == [[3, 5]]
    assert g.values().tolist() == [[0, 0, 0], [1, 1, 1]]


def test_gradients_left_before_the_step_are_seen():
    model = table(True)
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.3)
    closure_of(model, [1, 2, 3])().mean.backward()

    def adding() -> Tensor:
        loss = closure_of(model, [1, 2, 3])().mean
        loss.backward()
        return loss

    with pytest.raises(UsageError, match="adds onto gradients"):
        optimizer.step(adding)
    with pytest.raises(UsageError, match="would be lost"):
        optimizer.step(closure_of(model, [1, 2, 3]))


def test_a_base_that_takes_no_sparse_gradient_says_so_and_moves_nothing():
    model = table(True)
    optimizer = SAM(torch.optim.Adam(model.parameters(), lr=0.1), rho=0.3)
    with pytest.raises(RuntimeError, match="Adam does not support sparse gradients"):
        optimizer.step(closure_of(model, [1, 2]))
    assert torch.equal(model.weight, table(True).weight)


def test_second_order_sam():
    found = []
    for sparse in (True, False):
        model = table(sparse)
        optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.3, order=2)
        optimizer.step(closure_of(model, [1, 2, 5, 5]))
        found.append(model.weight.detach())
    assert float((found[0] - found[1]).abs().max()) < 1e-14
    first = table(True)
    SAM(torch.optim.SGD(first.parameters(), lr=0.1), rho=0.3).step(closure_of(first, [1, 2, 5, 5]))
    assert float((found[0] - first.weight.detach()).abs().max()) > 1e-4
