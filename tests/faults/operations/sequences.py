"""Attention, recurrence and embeddings."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .network import OPERATIONS, Operation, Twice, add, layer, tokens

# -- attention and recurrence ---------------------------------------------------------------------------------------


class _Attend(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.inner, self.options = nn.MultiheadAttention(4, 2, batch_first=True), options

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, x, x, **self.options)[0]


class _Cell(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Any:
        return self.inner(x)


_MASK = torch.tensor([[True, False, True], [True, True, False], [True, True, True]])
for _name, _options in {
    "default": {},
    "causal": {"is_causal": True},
    "mask": {"attn_mask": _MASK},
    "scale": {"scale": 0.3},
}.items():
    add(
        f"scaled_dot_product_attention, {_name}",
        lambda x, o=_options: F.scaled_dot_product_attention(x, x.flip(2), x.exp(), **o),
        2, 3, 4,
    )  # fmt: skip
layer("MultiheadAttention", _Attend, 3, 4)
layer("MultiheadAttention without weights", lambda: _Attend(need_weights=False), 3, 4)
layer("TransformerEncoderLayer", lambda: nn.TransformerEncoderLayer(4, 2, 6, batch_first=True), 3, 4)
layer(
    "TransformerEncoder",
    lambda: nn.TransformerEncoder(
        nn.TransformerEncoderLayer(4, 2, 6, batch_first=True, norm_first=True, activation="gelu"),
        2,
        enable_nested_tensor=False,
    ),
    3, 4,
)  # fmt: skip
layer("TransformerDecoderLayer", lambda: Twice(nn.TransformerDecoderLayer(4, 2, 6, batch_first=True)), 3, 4)
for _name in ("RNN", "LSTM", "GRU"):
    layer(_name, lambda k=_name: _Cell(getattr(nn, k)(3, 4, batch_first=True)), 4, 3)
    layer(f"{_name}Cell", lambda k=_name: _Cell(getattr(nn, f"{k}Cell")(6, 4)))
layer("RNN, relu", lambda: _Cell(nn.RNN(3, 4, nonlinearity="relu", batch_first=True)), 4, 3)
layer("LSTM, two layers, both ways", lambda: _Cell(nn.LSTM(3, 2, 2, bidirectional=True, batch_first=True)), 4, 3)
layer("LSTM, projected", lambda: _Cell(nn.LSTM(3, 4, proj_size=2, batch_first=True)), 4, 3)

# -- embeddings ---------------------------------------------------------------------------------------------------


def _same(x: Tensor) -> Tensor:
    return x.square()


class _Renormalising(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.last = nn.Parameter(torch.zeros(6, 4)), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.embedding(x, self.table, max_norm=1.0).mean(1))


tokens("Embedding", lambda: nn.Embedding(6, 4), _same, 4, 4)
tokens("Embedding, sparse", lambda: nn.Embedding(6, 4, sparse=True), _same, 4, 4)
tokens("Embedding, padding_idx", lambda: nn.Embedding(6, 4, padding_idx=0), _same, 4, 4)
tokens("Embedding, max_norm", lambda: nn.Embedding(6, 4, max_norm=1.0), _same, 4, 4)
OPERATIONS["F.embedding, max_norm"] = Operation(_Renormalising, tokens=True)
tokens("Embedding, scale_grad_by_freq", lambda: nn.Embedding(6, 4, scale_grad_by_freq=True), _same, 4, 4)
for _name in ("sum", "mean", "max"):
    tokens(f"EmbeddingBag, {_name}", lambda how=_name: nn.EmbeddingBag(6, 4, mode=how), _same, 4)
tokens("EmbeddingBag, sparse", lambda: nn.EmbeddingBag(6, 4, sparse=True), _same, 4)


class _Bag(nn.Module):
    def __init__(self, mode: str, *, weighted: bool = False, **options: Any) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(6, 4, mode=mode, **options)
        self.weights = nn.Parameter(torch.zeros(4)) if weighted else None

    def forward(self, x: Tensor) -> Tensor:
        if self.weights is not None:
            return self.bag(x, per_sample_weights=self.weights.expand(x.shape))
        return self.bag(x.reshape(-1), torch.arange(0, x.numel(), x.shape[1]))


tokens("EmbeddingBag, offsets, mean", lambda: _Bag("mean"), _same, 4)
tokens("EmbeddingBag, offsets, max", lambda: _Bag("max"), _same, 4)
tokens("EmbeddingBag, offsets, padded", lambda: _Bag("mean", padding_idx=2), _same, 4)
tokens("EmbeddingBag, weighted", lambda: _Bag("sum", weighted=True), _same, 4)
