"""Networks whose second derivatives torch handles badly, against dense float64 Hessians that avoid the trouble."""

from __future__ import annotations

import pytest
import torch
from cases import dense, problem_of
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrizations

from landscape.curvature.hessian import hessian


class Transformer(nn.Module):
    """Two blocks, fused attention, layer norms, on six tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(4, 2, 6, batch_first=True, activation="gelu") for _ in range(2)
        )
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


class Lstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTM(3, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0][:, -1])


class WrittenOut(nn.Module):
    """What weight normalisation computes, in plain operations."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.bias = nn.Parameter(layer.bias.detach().clone())
        self.g = nn.Parameter(layer.parametrizations.weight.original0.detach().clone())
        self.v = nn.Parameter(layer.parametrizations.weight.original1.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.g * self.v / self.v.square().sum(1, keepdim=True).sqrt()).T + self.bias


def data(kind: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    y = torch.randint(0, 3, (14,), generator=generator)
    if kind == "transformer":
        return torch.randint(0, 7, (14, 6), generator=generator), y
    shape = (14, 4, 3) if kind == "lstm" else (14, 5)
    return torch.randn(shape, generator=generator, dtype=torch.float64), y


def build(kind: str) -> tuple[nn.Module, nn.Module]:
    """A network, and one whose plain dense Hessian is right."""
    torch.manual_seed(0)
    if kind == "transformer":
        model: nn.Module = Transformer().double().eval()
        return model, model
    if kind == "lstm":
        model = Lstm().double()
        return model, model
    wrap = parametrizations.weight_norm if kind == "weight_norm" else parametrizations.spectral_norm
    first = wrap(nn.Linear(5, 6)).double()
    last = nn.Linear(6, 3).double()
    model = nn.Sequential(first, nn.Tanh(), last)
    with torch.no_grad():
        for _ in range(30):  # spectral norm: let its power iteration settle, in training mode
            model(torch.randn(2, 5).double())
    model.eval()
    return model, nn.Sequential(WrittenOut(first), nn.Tanh(), last) if kind == "weight_norm" else model


@pytest.mark.parametrize(
    "kind",
    [*(pytest.param(k, marks=pytest.mark.slow) for k in ("transformer", "lstm")), "weight_norm", "spectral_norm"],
)
def test_eigenvalues_and_trace_agree_with_the_dense_hessian(kind: str):
    model, plain = build(kind)
    x, y = data(kind)
    with sdpa_kernel(SDPBackend.MATH):
        loss, gradient, matrix = dense(plain, x, y)
    values = torch.linalg.eigvalsh(matrix)
    problem = problem_of(model, (x, y), batch_size=5)
    found = hessian(problem, top=5, bottom=3, tol=1e-8, trace=True, trace_rtol=1e-9, max_products=2000)
    scale = float(values.abs().max())
    assert found["n_parameters"] == len(matrix)
    assert found["loss"] == pytest.approx(loss, rel=1e-12)
    assert found["gradient_norm"] == pytest.approx(float(gradient.norm()), rel=1e-10)
    assert found["eigenvalues"] == pytest.approx(values.flip(0)[:5].tolist(), abs=1e-8 * scale)
    assert found["smallest"] == pytest.approx(values[:3].tolist(), abs=1e-8 * scale)
    assert found["trace"]["method"] == "exact"
    assert found["trace"]["estimate"] == pytest.approx(float(matrix.trace()), rel=1e-9)
    assert found["frobenius_norm"]["estimate"] == pytest.approx(float(matrix.norm()), rel=1e-9)
    assert found["symmetry_error"] < 1e-12
