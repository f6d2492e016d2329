"""Operations on complex numbers: their products against differences of gradients, or one clear error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from complex_twins import complex_data
from torch import Tensor, nn

from landscape.autograd.recompute import recompute_blocks
from landscape.base.errors import DataError, NumericalError
from landscape.measures.sharpness import sharpness
from landscape.numerics.tensors import as_real
from landscape.problem.problem import Problem
from landscape.surfaces.surface import surface


class Length(nn.Module):
    """|z|, examples first."""

    def forward(self, z: Tensor) -> Tensor:
        return z.abs().flatten(1)


class Both(nn.Module):
    """ReLU of real and imaginary parts."""

    def forward(self, z: Tensor) -> Tensor:
        return torch.complex(z.real.relu(), z.imag.relu())


class Applied(nn.Module):
    """A function of inputs and one complex weight."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], *shape: int) -> None:
        super().__init__()
        self.function = function
        self.w = nn.Parameter(torch.zeros(shape, dtype=torch.complex128))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.w)


def filled(model: nn.Module) -> nn.Module:
    """The network with weights from a fixed seed."""
    g = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.5 * torch.randn(p.shape, generator=g, dtype=p.dtype))
    return model


def lengths(layer: nn.Module) -> nn.Module:
    return nn.Sequential(layer, Length())


KIND: dict[str, Any] = {"dtype": torch.complex128}
OPERATIONS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv1d": (lambda: lengths(nn.Conv1d(2, 4, 3, stride=2, **KIND)), (2, 7)),
    "conv2d": (lambda: lengths(nn.Conv2d(2, 4, 3, groups=2, dilation=2, **KIND)), (2, 6, 6)),
    "conv2d same": (lambda: lengths(nn.Conv2d(2, 2, 3, padding="same", **KIND)), (2, 4, 4)),
    "conv2d circular": (lambda: lengths(nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular", **KIND)), (2, 4, 4)),
    "conv_transpose1d": (lambda: lengths(nn.ConvTranspose1d(4, 6, 3, groups=2, **KIND)), (4, 5)),
    "bilinear": (lambda: lengths(Applied(lambda x, w: torch.einsum("ni,oij,nj->no", x, w, x.conj()), 3, 4, 4)), (4,)),
    "fft": (lambda: Applied(lambda x, w: torch.fft.ifft(torch.fft.fft(x) * w).imag.tanh(), 4), (4,)),
    "polar": (lambda: Applied(lambda x, w: torch.polar((x * w).abs(), (x * w).angle()).real, 4), (4,)),
    "exp and log": (lambda: Applied(lambda x, w: (torch.exp(x * w) + 3).log().imag, 4), (4,)),
    "logcumsumexp": (lambda: Applied(lambda x, w: torch.logcumsumexp(x * w, 1).abs(), 4), (4,)),
    "eigenvalues": (lambda: Applied(lambda x, w: torch.linalg.eigvalsh(w + w.mH) * x.real, 4, 4), (4,)),
    "softmax of lengths": (lambda: Applied(lambda x, w: (x @ w).abs().softmax(1), 4, 4), (4,)),
    "view_as_real": (lambda: Applied(lambda x, w: torch.view_as_real(x * w).tanh().flatten(1), 4), (4,)),
    "lazy conjugate": (lambda: Applied(lambda x, w: (x @ w.conj()).imag + (x @ w.mT.conj()).real, 4, 4), (4,)),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_products_are_differences_of_gradients(name: str):
    make, shape = OPERATIONS[name]
    model = filled(make())
    x, _ = complex_data(*shape)
    with torch.no_grad():
        y = torch.zeros_like(model(x))
    problem = Problem(model, (x, y + 0.3), "mse", device="cpu", batch_size=7)
    v = torch.randn(problem.n_parameters, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    ends = []
    for sign in (1, -1):
        with problem.temporary_weights():
            problem.space.write(problem.weights + sign * 1e-5 * v)
            ends.append(problem.gradient())
    expected = (ends[0] - ends[1]) / 2e-5
    assert float(expected.norm()) > 1e-3
    assert float((problem.hvp(v) - expected).norm() / expected.norm()) < 1e-6


def test_filters_of_a_complex_transposed_convolution_keep_their_norms():
    model = filled(OPERATIONS["conv_transpose1d"][0]())
    x, _ = complex_data(4, 5)
    with torch.no_grad():
        y = model(x) + 1
    found = surface(Problem(model, (x, y), "mse", device="cpu"), dim=1, points=3)
    weight, moved = as_real(model[0].weight.detach()), found.vectors["d1.0.weight"]
    for group in range(2):
        for j in range(3):  # output channels of a group; its inputs are two rows of the weight
            ours, theirs = (t[2 * group : 2 * group + 2, j].norm() for t in (weight, moved))
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=0)
    assert found["filter_norm_error"] < 1e-9


def test_complex_layers_are_rescaled():
    layers = (nn.Linear(4, 6, **KIND), Both(), nn.Linear(6, 3, **KIND), Length())
    x, _ = complex_data(4)
    problem = Problem(filled(nn.Sequential(*layers)), (x, torch.arange(20) % 3), device="cpu")
    found = sharpness(problem, control="rescale", measure=("worst-case-adaptive", "fisher-rao"))
    assert [n["factor"] for n in found["control"]["networks"]] == [1, 2, 5, 10]
    assert all(n["output_change"] < 1e-12 for n in found["control"]["networks"])
    moves = {m["measure"]: m["largest_change"] for m in found["control"]["measures"]}
    assert moves["fisher-rao"] < 1e-9
    assert moves["worst-case-adaptive"] < 1e-6


def test_operations_without_a_complex_derivative_are_named():
    embedding = nn.Sequential(nn.Embedding(5, 3, **KIND), Length())
    problem = Problem(embedding, (torch.arange(9)[:, None] % 5, torch.rand(9, 3)), "mse", device="cpu")
    for ask in (problem.gradient, lambda: problem.hvp(torch.ones(30, dtype=torch.float64))):
        with pytest.raises(NumericalError, match="embedding of complex numbers has no derivative"):
            ask()
    normed = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3, **KIND)), Length())
    with pytest.raises(DataError, match="not implemented for 'ComplexDouble'"):
        Problem(normed, (complex_data(4)[0], torch.rand(20, 3)), "mse", device="cpu")


class Blocks(nn.Module):
    """Complex blocks in a row, as deep networks have them."""

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(4)
        self.blocks = nn.ModuleList(nn.Linear(3, 3, dtype=torch.complex128) for _ in range(3))
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(0.5 * torch.randn(p.shape, generator=g, dtype=torch.complex128))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = torch.tanh(block(x)) + x
        return x.abs()


def test_complex_blocks_computed_again_are_the_same():
    x, y = complex_data(3, outputs=(3,), real_targets=True)
    problems = [Problem(Blocks(), (x, y), "mse", device="cpu") for _ in range(2)]
    assert recompute_blocks(problems[1].model) == 3
    vector = torch.randn(problems[0].n_parameters, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    for of in (lambda p: p.gradient(), lambda p: p.hvp(vector)):
        torch.testing.assert_close(of(problems[0]), of(problems[1]), rtol=1e-12, atol=1e-14)
