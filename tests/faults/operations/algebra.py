"""Products, distances, linear algebra and Fourier transforms."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .network import Twice, add, layer, wave

# -- products and linear algebra ------------------------------------------------------------------------------------

add("matmul", lambda x: x @ x.mT, 2, 3)
add("bmm", lambda x: torch.bmm(x, x.mT), 2, 3)
add("baddbmm", lambda x: torch.baddbmm(x @ x.mT, x, x.mT), 2, 3)
add("einsum", lambda x: torch.einsum("nij,nkj->nik", x, x.exp()), 2, 3)
add("tensordot", lambda x: torch.tensordot(x, wave(3, 2), 1).square(), 2, 3)
add("kron", lambda x: torch.stack([torch.kron(a, a) for a in x]), 2, 2)
add("outer", lambda x: torch.stack([torch.outer(a, a) for a in x]))
add("cross", lambda x: torch.linalg.cross(x[:, 0], x[:, 1].exp()), 2, 3)
layer("Bilinear", lambda: Twice(nn.Bilinear(6, 6, 2)))
add("cosine_similarity", lambda x: F.cosine_similarity(x[:, :3], x[:, 3:], 1))
add("pairwise_distance", lambda x: F.pairwise_distance(x[:, :3], x[:, 3:]))
for _p in (2.0, 1.0, 3.0, math.inf, 0.5):
    add(f"cdist, p={_p:g}", lambda x, p=_p: torch.cdist(x, x.flip(1).exp() + 1, p=p), 2, 3)
for _p in (2.0, 1.0, 3.0, math.inf):
    add(f"pdist, p={_p:g}", lambda x, p=_p: torch.stack([torch.pdist(a, p) for a in x]), 3, 2)
add("dist", lambda x: torch.stack([torch.dist(a[:3], a[3:], 2) for a in x]))


def _spd(x: Tensor) -> Tensor:
    return x @ x.mT + torch.eye(x.shape[-1], dtype=x.dtype)


for _name, _function in {
    "det": torch.linalg.det,
    "slogdet": lambda a: torch.linalg.slogdet(a).logabsdet,
    "inv": torch.linalg.inv,
    "pinv": torch.linalg.pinv,
    "cholesky": torch.linalg.cholesky,
    "cholesky_inverse": lambda a: torch.cholesky_inverse(torch.linalg.cholesky(a)),
    "eigvalsh": lambda a: torch.linalg.eigvalsh(a + torch.diag(torch.arange(3.0).double())),
    "eigh, values and projections": lambda a: torch.linalg.eigh(a + torch.diag(torch.arange(3.0).double()))[1].abs(),
    "svdvals": torch.linalg.svdvals,
    "svd": lambda a: torch.linalg.svd(a).U.abs(),
    "qr": lambda a: torch.linalg.qr(a).R,
    "lu": lambda a: torch.linalg.lu(a).U,
    "matrix_exp": torch.linalg.matrix_exp,
    "matrix_power": lambda a: torch.linalg.matrix_power(a, 3),
    "matrix_norm, fro": torch.linalg.matrix_norm,
    "matrix_norm, nuclear": lambda a: torch.linalg.matrix_norm(a, "nuc"),
    "solve": lambda a: torch.linalg.solve(a, wave(3, 2)),
    "solve_triangular": lambda a: torch.linalg.solve_triangular(a, wave(3, 2), upper=True),
    "lstsq": lambda a: torch.linalg.lstsq(a, wave(3, 2).expand(len(a), -1, -1)).solution,
    "trace": lambda a: a.diagonal(dim1=1, dim2=2).sum(1).square(),
    "householder_product": lambda a: torch.linalg.householder_product(a.tril(-1), a.diagonal(dim1=1, dim2=2).cos()),
}.items():
    add(f"linalg.{_name}", lambda x, f=_function: f(_spd(x)), 3, 3)

# -- Fourier ------------------------------------------------------------------------------------------------------

add("fft", torch.fft.fft)
add("rfft and irfft", lambda x: torch.fft.irfft(torch.fft.rfft(x) * torch.fft.rfft(x)))
add("fft2", torch.fft.fft2, 3, 4)
add("stft", lambda x: torch.stft(x, 8, window=torch.hann_window(8, dtype=x.dtype), return_complex=True), 16)
add("complex absolute value", lambda x: torch.complex(x, x.flip(1)).abs())
add("complex angle", lambda x: torch.complex(x.square() + 1, x).angle())
add("polar", lambda x: torch.polar(x.square() + 1, x))
