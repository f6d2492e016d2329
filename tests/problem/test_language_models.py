"""What language models do with their tokens: padding, packing, tied embeddings, tables in buffers, caches.

Each against a dense Hessian in float64 of a loss that is written out by hand.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landscape.problem.problem import Problem

TOKENS, WIDTH, LENGTH = 7, 4, 5
LENGTHS = (5, 3, 2)


class Model(nn.Module):
    """One block of attention with rotary positions, whose angles are a buffer; embedding and head may be tied."""

    angles: Tensor

    def __init__(self, tied: bool = True) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(TOKENS, WIDTH), nn.Linear(WIDTH, TOKENS, bias=False)
        self.mix, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        table = torch.arange(9)[:, None] / 10.0 ** torch.arange(WIDTH // 2)
        self.register_buffer("angles", table, persistent=False)
        if tied:
            self.head.weight = self.embedding.weight

    def turned(self, x: Tensor, places: Tensor) -> Tensor:
        angle = self.angles[places]
        a, b = x.chunk(2, -1)
        return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, position_ids: Tensor | None = None
    ) -> Tensor:
        """``attention_mask``: which tokens there are, ``(n, length)``, or the number of each one's text, from 1."""
        n, length = input_ids.shape
        texts = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        places = torch.arange(length).expand(n, -1) if position_ids is None else position_ids
        x = self.embedding(input_ids)
        q, k, v = self.mix(x).chunk(3, -1)
        q, k = self.turned(q, places), self.turned(k, places)
        seen = (texts[:, :, None] == texts[:, None]) & torch.ones(length, length, dtype=torch.bool).tril()
        score = (q @ k.mT).masked_fill(~seen, -torch.inf)
        logits: Tensor = self.head(x + torch.tanh(self.out(score.softmax(-1) @ v)))
        return logits


def texts() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, TOKENS, (n,), generator=generator) for n in LENGTHS]


def by_hand(model: nn.Module, logits: Callable[[Any], Tensor] = lambda z: z) -> tuple[float, Tensor]:
    """The mean over all predicted tokens of all texts, each alone and unpadded, and its Hessian."""
    names, values = zip(*model.named_parameters(), strict=True)
    sizes = [p.numel() for p in values]

    def loss(flat: Tensor) -> Tensor:
        weights = {n: f.view_as(p) for n, f, p in zip(names, flat.split(sizes), values, strict=True)}
        total = flat.new_zeros(())
        for text in texts():
            found = logits(torch.func.functional_call(model, weights, (text[None],), tie_weights=True))
            total = total + F.cross_entropy(found[0, :-1], text[1:], reduction="sum")
        return total / sum(n - 1 for n in LENGTHS)

    flat = torch.cat([p.detach().reshape(-1) for p in values])
    with nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):
        return float(loss(flat)), torch.autograd.functional.hessian(loss, flat)


def padded(left: bool) -> tuple[dict[str, Tensor], Tensor]:
    """Texts filled up to `LENGTH` at the left or at the right, with places that count from a text's own start."""
    rows = []
    for text in texts():
        blank = torch.zeros(LENGTH - len(text), dtype=torch.long)
        ones, places = torch.ones_like(text), torch.arange(len(text))
        parts = [(text, blank), (ones, blank), (places, blank), (text, blank - 100)]
        rows.append([torch.cat([b, a] if left else [a, b]) for a, b in parts])
    ids, mask, places, targets = (torch.stack(column) for column in zip(*rows, strict=True))
    if left:  # the first token of a text is not predicted by what stands before it
        targets[torch.arange(len(targets)), LENGTH - torch.tensor(LENGTHS)] = -100
    return {"input_ids": ids, "attention_mask": mask, "position_ids": places}, targets


def packed() -> tuple[dict[str, Tensor], Tensor]:
    """All texts in one row, one after the other; none sees another, and none predicts the next one's first token."""
    ids = torch.cat(texts())[None]
    number = torch.cat([torch.full((n,), i) for i, n in enumerate(LENGTHS, 1)])[None]
    places = torch.cat([torch.arange(n) for n in LENGTHS])[None]
    targets = ids.masked_fill(places == 0, -100)
    return {"input_ids": ids, "attention_mask": number, "position_ids": places}, targets


@pytest.mark.parametrize("chunk", [None, 3])
@pytest.mark.parametrize(
    "examples", [padded(left=False), padded(left=True), packed()], ids=["right", "left", "packed"]
)
def test_padding_and_packing_change_nothing(examples: tuple[dict[str, Tensor], Tensor], chunk: int | None) -> None:
    torch.manual_seed(0)
    model = Model().double()
    value, matrix = by_hand(model)
    problem = Problem(model, examples, "causal_lm", dtype="float64", batch_size=2, logit_chunk=chunk)
    assert problem.loss() == pytest.approx(value, rel=1e-12)
    vector = torch.randn(problem.n_parameters, dtype=torch.float64)
    torch.testing.assert_close(problem.hvp(vector), matrix @ vector, rtol=1e-9, atol=1e-10)


def test_tied_embeddings_are_one_tensor_that_moves_in_both_places() -> None:
    """Their block is the sum over both places of the blocks of the same network with two tensors."""
    torch.manual_seed(0)
    tied, untied = Model().double(), Model(tied=False).double()
    untied.load_state_dict(tied.state_dict())
    _, apart = by_hand(untied)
    names = [n for n, p in untied.named_parameters() for _ in range(p.numel())]
    places = {n: [i for i, m in enumerate(names) if m == n] for n in dict.fromkeys(names)}
    joined = torch.zeros(len(apart), sum(p.numel() for p in tied.parameters()), dtype=torch.float64)
    start = 0
    for name, p in tied.named_parameters():
        own = torch.arange(start, start + p.numel())
        for place in [name, "head.weight"] if name == "embedding.weight" else [name]:
            joined[places[place], own] = 1
        start += p.numel()
    examples = padded(left=False)
    problem = Problem(tied, examples, "causal_lm", dtype="float64")
    assert problem.n_parameters == start
    vector = torch.randn(start, dtype=torch.float64)
    torch.testing.assert_close(problem.hvp(vector), joined.T @ (apart @ (joined @ vector)), rtol=1e-9, atol=1e-10)


def test_a_table_in_a_buffer_is_no_parameter_and_keeps_its_numbers() -> None:
    """Rotary angles that were made in float32 are the same numbers in float64, and move with nothing."""
    torch.manual_seed(0)
    model = Model()  # in float32
    before = model.angles.clone()
    twin = Model().double()
    twin.load_state_dict(model.state_dict())
    twin.angles = before.double()
    value, matrix = by_hand(twin)
    problem = Problem(model, padded(left=True), "causal_lm", dtype="float64")
    assert "angles" not in problem.space.names
    assert problem.loss() == pytest.approx(value, rel=1e-12)
    vector = torch.randn(problem.n_parameters, dtype=torch.float64)
    torch.testing.assert_close(problem.hvp(vector), matrix @ vector, rtol=1e-9, atol=1e-10)
    assert torch.equal(model.angles, before)


@pytest.mark.slow
@pytest.mark.usefixtures("libraries")
@pytest.mark.parametrize(("name", "left", "error"), [("GPT2", True, 1e-8), ("Llama", False, 1e-4)])
def test_models_of_transformers_with_their_cache_on(name: str, left: bool, error: float) -> None:
    """Caches that a configuration asks for are made anew in each pass: products are those of the network without.

    Llama normalises, and takes its softmax, in float32 whatever its weights are, and its eager attention gives NaN
    where a text of float64 begins with blanks, in plain torch as well.
    """
    library = importlib.import_module("transformers")
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 6}
    config = getattr(library, f"{name}Config")(
        vocab_size=TOKENS, max_position_embeddings=8, use_cache=True, bos_token_id=0, eos_token_id=0,
        attn_implementation="eager", tie_word_embeddings=True, **sizes,
    )  # fmt: skip
    torch.manual_seed(0)
    model = getattr(library, {"GPT2": "GPT2LMHeadModel", "Llama": "LlamaForCausalLM"}[name])(config).double().eval()
    model.config.use_cache = False
    value, matrix = by_hand(model, lambda output: output.logits)
    model.config.use_cache = True
    for chunk in (None, 3):
        problem = Problem(model, padded(left), "causal_lm", dtype="float64", batch_size=2, logit_chunk=chunk)
        assert problem.loss() == pytest.approx(value, rel=error)
        vector = torch.randn(problem.n_parameters, dtype=torch.float64)
        exact = matrix @ vector
        assert float((problem.hvp(vector) - exact).norm()) <= error * float(exact.norm())
