"""Networks of every kind against dense references: several inputs, structured outputs, texts, masks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import dense, flat_function, problem_of
from torch import Tensor, nn

from landscape.base.errors import DataError
from landscape.curvature.hessian import hessian
from landscape.domainwise.domains import domains
from landscape.measures.sharpness import sharpness
from landscape.surfaces.surface import surface

G = torch.Generator().manual_seed(0)
X = torch.randn(9, 4, generator=G, dtype=torch.float64)


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def assert_exact(model: nn.Module, data: Any, loss: Any, whole: Any, batch_size: int = 4) -> Any:
    """Loss, gradient and one product in ragged micro-batches against ``whole(model)`` over all examples at once."""
    problem = problem_of(model, data, loss, batch_size=batch_size)
    function, weights = flat_function(model, whole)
    weights.requires_grad_()
    value = function(weights)
    (gradient,) = torch.autograd.grad(value, weights)
    hessian = torch.autograd.functional.hessian(function, weights.detach())
    v = torch.randn(len(weights), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert problem.loss() == pytest.approx(value.item(), rel=1e-12)
    assert relative(problem.gradient(), gradient) < 1e-11
    assert relative(problem.hvp(v), hessian @ v) < 1e-11
    assert float(problem.loss_tensor()) == pytest.approx(value.item(), rel=1e-12)
    return problem


def seeded(make: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return make().double()


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(2, 3)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return torch.tanh(self.a(left) * self.b(right)).sum(1)


@pytest.mark.parametrize("named", [False, True])
def test_regression_with_two_inputs(named: bool):
    model, right, y = seeded(TwoInputs), X[:, :2] + 1, X[:, 0] ** 2
    inputs = {"right": right, "left": X} if named else (X, right)
    problem = assert_exact(model, (inputs, y), "mse", lambda m: F.mse_loss(m(X, right), y))
    assert problem.evaluate().accuracy is None


def test_several_labels():
    y = (X[:, :3] > 0).long()
    model = seeded(lambda: nn.Linear(4, 3))
    problem = assert_exact(
        model, (X, y), "bce_with_logits", lambda m: F.binary_cross_entropy_with_logits(m(X), y.double())
    )
    assert problem.evaluate().accuracy == pytest.approx(((model(X) > 0) == (y > 0)).double().mean().item())


class Reconstruction(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(4, 4), nn.Linear(2, 4)

    def forward(self, x: Tensor) -> dict[str, Any]:
        mean, spread = self.encode(x).chunk(2, 1)
        return {"mean": mean, "spread": (spread,), "image": self.decode(torch.tanh(mean))}


def negative_bound(output: dict[str, Any], target: dict[str, Tensor]) -> Tensor:
    """Per example; outputs and targets are trees."""
    error = (output["image"] - target["image"]).square().sum(1)
    return error + 0.1 * (output["mean"].square() + output["spread"][0].exp() - output["spread"][0]).sum(1)


@pytest.mark.parametrize("mean_only", [False, True])
def test_trees_out_and_trees_to_compare_with(mean_only: bool):
    target = {"image": X + 1}

    def loss(output: dict[str, Any], target: dict[str, Tensor]) -> Tensor:
        values = negative_bound(output, target)
        return values.mean() if mean_only else values

    model = seeded(Reconstruction)
    assert_exact(model, (X, target), loss, lambda m: negative_bound(m(X), target).mean())
    split = {"a": (X[:5], {"image": X[:5] + 1}), "b": (X[5:], {"image": X[5:] + 1})}
    found = problem_of(model, split, loss, batch_size=4).evaluate()
    for name, (x, y) in split.items():
        assert found.domains[name].loss == pytest.approx(negative_bound(model(x), y).mean().item(), rel=1e-12)
    assert found.accuracy is None


class Segmenter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 3, 3, padding=1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": self.layer(x), "aux": x}


def test_masks_with_ignored_pixels():
    images = torch.randn(5, 1, 4, 4, generator=G, dtype=torch.float64)
    masks = torch.randint(0, 3, (5, 4, 4), generator=G)
    masks[0] = masks[1, :3] = masks[4, 0] = -100
    model = seeded(Segmenter)
    problem = assert_exact(
        model, (images, masks), "cross_entropy", lambda m: F.cross_entropy(m(images)["out"], masks), batch_size=2
    )
    right = (model(images)["out"].argmax(1) == masks).sum() / (masks != -100).sum()
    assert problem.evaluate().accuracy == pytest.approx(right.item())
    assert problem.total_weight == int((masks != -100).sum())


# -- texts ---------------------------------------------------------------------------------------------------------


class Language(nn.Module):
    """A causal model of one attention head, with the calling convention of transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.project = nn.Embedding(7, 6), nn.Linear(6, 18)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> SimpleNamespace:
        x = self.embed(input_ids)
        q, k, v = self.project(x).chunk(3, -1)
        return SimpleNamespace(
            logits=(x + F.scaled_dot_product_attention(q, k, v, is_causal=True)) @ self.embed.weight.T
        )


def texts() -> dict[str, Tensor]:
    ids = torch.randint(0, 7, (6, 5), generator=G)
    lengths = torch.tensor([5, 2, 3, 5, 4, 2])
    return {"input_ids": ids, "attention_mask": (torch.arange(5) < lengths[:, None]).long()}


def next_token_loss(model: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        logits = model(ids).logits[:, :-1]
    targets = ids.masked_fill(mask == 0, -100)[:, 1:]
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


@pytest.mark.parametrize("batch_size", [1, 4, 6])
def test_every_token_weighs_the_same_whatever_the_batches(batch_size: int):
    """A mean of batch means would give the tokens of short texts more weight."""
    table, model = texts(), seeded(Language)
    problem = assert_exact(
        model, table, "causal_lm", lambda m: next_token_loss(m, *table.values()), batch_size=batch_size
    )
    assert problem.total_weight == int(table["attention_mask"].sum()) - 6
    assert problem.n_examples == 6


def test_domains_of_texts():
    table, model = texts(), seeded(Language)
    parts = {"short": [1, 2, 5], "long": [0, 3, 4]}
    data = {name: {k: v[rows] for k, v in table.items()} for name, rows in parts.items()}
    problem = problem_of(model, data, "causal_lm", batch_size=2)
    record = domains(problem).record
    for name, rows in parts.items():
        alone = next_token_loss(model, *(v[rows] for v in table.values())).item()
        assert record["domains"][name]["loss"] == pytest.approx(alone, rel=1e-12)
        assert problem.restrict_to_domain(name).loss() == pytest.approx(alone, rel=1e-12)
        assert record["domains"][name]["n"] == 3
    whole = next_token_loss(model, *table.values()).item()
    assert record["loss"] == pytest.approx(whole, rel=1e-12)
    assert surface(problem, points=3).data["loss"].values[1, 1] == pytest.approx(whole, rel=1e-12)


def test_m_sharpness_of_texts_weighs_blocks_by_their_tokens():
    """One block per text and a small radius: the mean rise is rho times the weighted mean gradient norm."""
    table, model = texts(), seeded(Language)
    problem = problem_of(model, table, "causal_lm", batch_size=4)
    norms, weights = [], []
    for i in range(6):
        row = {k: v[i : i + 1] for k, v in table.items()}
        one = problem_of(model, row, "causal_lm")
        norms.append(float(one.gradient().norm()))
        weights.append(one.total_weight)
    rho = 1e-5
    value = sharpness(problem, m=(1,), rho=(rho,)).record["measures"][0]["value"]
    expected = sum(a * w for a, w in zip(norms, weights, strict=True)) / sum(weights)
    assert value / rho == pytest.approx(expected, rel=1e-4)


def test_texts_of_which_nothing_counts_are_refused():
    table = texts()
    table["labels"] = torch.full((6, 5), -100)
    with pytest.raises(DataError, match="no target of any example counts"):
        problem_of(seeded(Language), table, "causal_lm").evaluate()


def test_a_loss_of_the_users_may_weigh_its_examples():
    class Weighted:
        def __call__(self, output: Tensor, target: Tensor) -> Tensor:
            return (output[:, 0] - target[:, 0]).square()

        def weights(self, target: Tensor) -> Tensor:
            return target[:, 1]

    target = torch.stack([X[:, 0], torch.arange(9.0)], 1).double()
    model = seeded(lambda: nn.Linear(4, 1))
    assert_exact(
        model,
        (X, target),
        Weighted(),
        lambda m: ((m(X)[:, 0] - target[:, 0]).square() * target[:, 1]).sum() / target[:, 1].sum(),
    )


def test_the_dense_reference_agrees_with_the_plain_one():
    model, y = seeded(lambda: nn.Linear(4, 3)), torch.randint(0, 3, (9,), generator=G)
    assert dense(model, X, y)[0] == pytest.approx(problem_of(model, (X, y)).loss(), rel=1e-12)


def test_data_that_exceed_the_memory_give_the_same_answers(monkeypatch: pytest.MonkeyPatch):
    """Rows that are drawn at random when they are read, frozen by their place."""

    class Drawn(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 9

        def __getitem__(self, i: int) -> tuple[Tensor, int]:
            return X[i] + 0.1 * torch.randn(4, dtype=torch.float64), i % 3

    model, v = seeded(lambda: nn.Linear(4, 3)), torch.ones(15, dtype=torch.float64)
    kept = problem_of(model, Drawn(), batch_size=4)
    monkeypatch.setattr("landscape.problem.problem._MEMORY_BYTES", 100)
    monkeypatch.setattr("landscape.problem.passes._CACHE_BYTES", 100)
    read = problem_of(model, Drawn(), batch_size=4)
    assert type(read.examples.store) is not type(kept.examples.store)
    assert read.data_hash == kept.data_hash
    for _ in range(2):
        assert read.evaluate() == kept.evaluate()
        assert torch.equal(read.gradient(), kept.gradient())
        assert torch.equal(read.hvp(v), kept.hvp(v))
    assert read.restrict_to_examples(np.array([7, 2])).loss() == kept.restrict_to_examples(np.array([7, 2])).loss()


class SingleInside(nn.Module):
    """Float32 in its middle whatever its weights are, as many a norm of transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.lift, self.head = nn.Linear(4, 700), nn.Linear(50, 3)
        self.register_buffer("mix", torch.randn(700, 50, generator=torch.Generator().manual_seed(0)) / 700**0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = (self.lift(x).float() @ self.mix.float()).to(x.dtype)
        return self.head(torch.tanh(x))


def test_rounding_inside_is_not_taken_for_examples_that_look_at_each_other():
    """Kernels for one example and for several add in another order."""
    model, y = seeded(SingleInside), torch.arange(9) % 3
    with torch.no_grad():
        whole, apart = model(X), torch.cat([model(X[i : i + 1]) for i in range(9)])
    assert 1e-9 < relative(apart, whole) < 1e-6
    problem = problem_of(model, (X, y), batch_size=4)
    assert problem.loss() == pytest.approx(F.cross_entropy(whole, y).item(), rel=1e-6)


def test_a_sparse_buffer_is_an_adjacency_like_any_other():
    """Graph networks keep one; it has no memory to point at, and is part of the weights' hash all the same."""

    class Graph(nn.Module):
        def __init__(self, edge: float, sparse: bool) -> None:
            super().__init__()
            matrix = torch.eye(5, dtype=torch.float64)
            matrix[0, 1] = edge
            self.register_buffer("adjacency", matrix.to_sparse() if sparse else matrix)
            torch.manual_seed(0)
            self.last = nn.Linear(5, 3).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.tanh((self.adjacency @ x.T).T))

    torch.manual_seed(0)
    data = torch.randn(12, 5).double(), torch.arange(12) % 3
    sparse, dense, other = (problem_of(Graph(*a), data) for a in ((0.5, True), (0.5, False), (0.7, True)))
    assert torch.allclose(sparse.gradient(), dense.gradient(), rtol=1e-12)
    assert sparse.weights_hash != other.weights_hash
    assert hessian(sparse, top=1)["eigenvalues"] == pytest.approx(hessian(dense, top=1)["eigenvalues"], rel=1e-8)
