"""The head and the loss of a language model by chunks of positions: the numbers of torch's own, in less memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import landscape
from landscape.autograd.chunked_cross_entropy import ChunkedCrossEntropy, Counted
from landscape.autograd.late_logits import NAME, Logits, deferred
from landscape.curvature.operators import operator_of
from landscape.problem.problem import Problem

TOKENS, WIDTH, LENGTH = 40, 8, 11


class Model(nn.Module):
    """Embedding, one block of attention, and a head that is the embedding or has its own weight and bias."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(TOKENS, WIDTH)
        self.block = nn.TransformerEncoderLayer(WIDTH, 2, 16, 0.0, "gelu", batch_first=True)
        self.head = nn.Linear(WIDTH, TOKENS, bias=not tied)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1]).to(self.embedding.weight)
        return self.head(self.block(self.embedding(tokens), src_mask=mask, is_causal=True))


class WithLoss(Model):
    """As the models of transformers: the loss is made inside, of shifted and flattened logits."""

    def forward(self, tokens: Tensor) -> Tensor:
        logits = super().forward(tokens).to(self.embedding.weight.dtype)
        labels = F.pad(tokens, (0, 1), value=-100)[..., 1:].contiguous().view(-1)
        return F.cross_entropy(logits.view(-1, TOKENS), labels, ignore_index=-100, reduction="mean").reshape(1)


def tokens(n: int = 5) -> Tensor:
    return torch.randint(0, TOKENS, (n, LENGTH), generator=torch.Generator().manual_seed(1))


def both(model: nn.Module, loss: Any, targets: Tensor | None = None, **choices: Any) -> tuple[Problem, Problem]:
    torch.manual_seed(0)
    data = (tokens(), tokens() if targets is None else targets)
    made = [Problem(model, data, loss, dtype="float64", batch_size=2, logit_chunk=c, **choices) for c in (None, 4)]
    return made[0], made[1]


class Largest(TorchDispatchMode):
    """The largest tensor that any operation inside gives that is no parameter's size, as numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        self.shapes |= {tuple(t.shape) for t in tree_leaves(found) if isinstance(t, Tensor)}
        return found

    def positions(self) -> int:
        """The most positions of which logits were there at once."""
        held = [torch.Size(s).numel() // TOKENS for s in self.shapes if TOKENS in s and WIDTH not in s]
        return max(held, default=0)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_first_and_second_derivatives_are_those_of_differences(chunk: int, weighted: bool) -> None:
    torch.manual_seed(0)
    h, weight, bias = (torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in ((9, 3), (5, 3), (5,)))
    target = torch.tensor([0, 1, 2, -100, 4, 3, -100, 1, 0])
    classes = torch.rand(5, dtype=torch.float64) if weighted else None

    def ours(h: Tensor, weight: Tensor, bias: Tensor) -> Any:
        return ChunkedCrossEntropy.apply(h, weight, bias, target, classes, Counted(-100, chunk))

    plain = F.cross_entropy(F.linear(h, weight, bias), target, classes, reduction="none")
    torch.testing.assert_close(ours(h, weight, bias), plain, rtol=1e-14, atol=1e-14)
    assert torch.autograd.gradcheck(ours, (h, weight, bias))
    assert torch.autograd.gradgradcheck(ours, (h, weight, bias))


@pytest.mark.parametrize("loss", ["causal_lm", "token_cross_entropy", nn.CrossEntropyLoss(weight=torch.rand(TOKENS))])
@pytest.mark.parametrize("tied", [True, False])
def test_products_are_those_of_all_logits(tied: bool, loss: Any) -> None:
    torch.manual_seed(0)
    model: nn.Module = Model(tied)
    targets = tokens()
    targets[0, 3:6] = -100
    if isinstance(loss, nn.Module):  # torch's own wants classes second
        model = nn.Sequential(model, Turned())
    whole, parts = both(model, loss, targets)
    vector = torch.randn(whole.n_parameters, dtype=torch.float64)
    torch.testing.assert_close(parts.hvp(vector), whole.hvp(vector), rtol=1e-11, atol=1e-12)
    assert NAME in parts.replaced
    assert NAME not in whole.replaced


class Turned(nn.Module):
    def forward(self, logits: Tensor) -> Tensor:
        return logits.transpose(1, 2)


@pytest.mark.parametrize("operator", ["ggn", "fisher", "fisher-mc", "empirical-fisher"])
@pytest.mark.parametrize("loss", ["causal_lm", "token_cross_entropy"])
def test_matrices_of_outputs_are_those_of_all_logits(loss: str, operator: str) -> None:
    torch.manual_seed(0)
    whole, parts = both(Model(tied=True), loss)
    vector = torch.randn(whole.n_parameters, dtype=torch.float64)
    one, other = (operator_of(p, operator).product(vector) for p in (whole, parts))
    torch.testing.assert_close(other, one, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("operator", ["hessian", "ggn", "fisher"])
def test_no_more_logits_are_there_than_a_chunk(operator: str) -> None:
    torch.manual_seed(0)
    whole, parts = both(Model(tied=False), "causal_lm")
    vector = torch.randn(whole.n_parameters, dtype=torch.float64)
    held = []
    for problem in (whole, parts):
        product = operator_of(problem, operator, memory=0).product
        product(vector)  # what is looked at once is
        with Largest() as seen:
            product(vector)
        held.append(seen.positions())
    assert held == [2 * LENGTH, 4]


def test_a_model_that_makes_its_loss_itself() -> None:
    torch.manual_seed(0)
    model = WithLoss(tied=True)
    data = (tokens(), torch.zeros(5))
    made = [
        Problem(model, data, lambda output, target: output.mean(), dtype="float64", loss_over="batch", batch_size=2,
                logit_chunk=c) for c in (None, 3)
    ]  # fmt: skip
    vector = torch.randn(made[0].n_parameters, dtype=torch.float64)
    torch.testing.assert_close(made[1].hvp(vector), made[0].hvp(vector), rtol=1e-11, atol=1e-12)
    assert NAME in made[1].replaced


def test_whatever_else_is_done_with_them_is_done_with_the_logits() -> None:
    torch.manual_seed(0)
    h, weight, bias = torch.randn(2, 6, 3), torch.randn(7, 3, requires_grad=True), torch.randn(7)
    plain = F.linear(h, weight, bias)
    with deferred(lambda positions, each: 2, used := set()):
        late: Any = F.linear(h, weight, bias)
        square: Any = F.linear(h, torch.eye(3))
    assert type(square) is Tensor  # not a head
    assert isinstance(late, Logits)
    assert (late.shape, late.dtype, late.ndim, len(late), late.requires_grad) == (
        plain.shape,
        plain.dtype,
        3,
        2,
        True,
    )
    for same in (
        lambda z: z[:, 1:], lambda z: z[..., :-1, :], lambda z: z[0], lambda z: z[:, -1], lambda z: z.view(-1, 7),
        lambda z: z.reshape(12, 7), lambda z: z.flatten(0, 1), lambda z: z.transpose(1, 2), lambda z: z.contiguous(),
        lambda z: z.transpose(1, 2).transpose(1, 2), lambda z: z.float(), lambda z: z.to(torch.float32),
        lambda z: z.detach(),
    ):  # fmt: skip
        assert isinstance(same(late), Logits)
        torch.testing.assert_close(same(late) + 0, same(plain) + 0)
    for other in (
        lambda z: z[..., 0], lambda z: z[:, :, 1:3], lambda z: z.view(2, 42), lambda z: z.view(3, -1),
        lambda z: z * 2,
        lambda z: z.double(), lambda z: z.argmax(-1), lambda z: z.log_softmax(-1), lambda z: torch.cat([z, z]),
        lambda z: z.flatten(), lambda z: z.transpose(0, 1), lambda z: z[z[..., 0] > 0], lambda z: z[None],
        lambda z: z.transpose(1, 2).reshape(2, -1), lambda z: z.to("cpu", torch.float64), lambda z: z.view(-1, 7).T,
    ):  # fmt: skip
        assert not isinstance(other(late), Logits)
        torch.testing.assert_close(other(late), other(plain))
    assert not used


@pytest.mark.parametrize(
    "asked",
    [{}, {"reduction": "sum"}, {"reduction": "none"}, {"label_smoothing": 0.1}, {"ignore_index": 3},
     {"weight": torch.arange(1.0, 8.0)}, {"weight": torch.arange(1.0, 8.0), "ignore_index": 2}],
    ids=str,
)  # fmt: skip
def test_every_form_of_cross_entropy(asked: dict[str, Any]) -> None:
    torch.manual_seed(0)
    h, weight = torch.randn(6, 3), torch.randn(7, 3)
    hard, soft = torch.tensor([0, 3, 6, 2, 3, 5]), torch.rand(6, 7).softmax(1)
    for target in (hard, soft):
        if target is soft and "ignore_index" in asked:
            continue
        with deferred(lambda positions, each: 2, set()):
            late = F.linear(h, weight)
        torch.testing.assert_close(
            F.cross_entropy(late, target, **asked), F.cross_entropy(F.linear(h, weight), target, **asked)
        )


def test_labels_out_of_range_are_told_by_torch() -> None:
    with deferred(lambda positions, each: 1, set()):
        late = F.linear(torch.randn(2, 3), torch.randn(4, 3))
    with pytest.raises(IndexError, match="out of bounds"):
        F.cross_entropy(late, torch.tensor([0, 4]))


def test_it_is_chosen_where_logits_would_take_much_of_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem(Model(tied=True), (tokens(), tokens()), "causal_lm")
    every = 5 * LENGTH * TOKENS * 4 * 10
    monkeypatch.setattr("landscape.problem.problem.free_memory", lambda device: every * 9)
    assert problem._positions(5 * LENGTH, TOKENS * 4) is None
    monkeypatch.setattr("landscape.problem.problem.free_memory", lambda device: every * 4)
    chosen = problem._positions(5 * LENGTH, TOKENS * 4)
    assert chosen is not None
    assert 1 <= chosen < 5 * LENGTH / 4
    problem.hvp(torch.ones(problem.n_parameters))
    assert NAME in problem.replaced
    with pytest.raises(landscape.UsageError, match="logit_chunk"):
        Problem(Model(tied=True), (tokens(), tokens()), "causal_lm", logit_chunk=0)
