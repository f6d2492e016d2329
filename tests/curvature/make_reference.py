"""Make ``reference_published.json``: eigenvalues of published networks, without a line of ``landscape``.

    LANDSCAPE_TEST_DATA=... python tests/curvature/make_reference.py [CASE...]

The networks are written down here once more, the product is a plain double backward over one batch in float64,
and ARPACK (scipy) finds both ends of the spectrum (LAPACK, from the whole matrix, where it is small). Each stored
value is a Rayleigh quotient with the residual of
its own product: the distance to an eigenvalue is at most ``residual * |lambda_max|``.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

DATA = Path(os.environ["LANDSCAPE_TEST_DATA"])
OUT = Path(__file__).with_name("reference_published.json")
FILES = {"resnet20": "resnet20-12fca82f.th", "resnet32": "resnet32-d509ac18.th"}
# name: (network, examples, regular expression of the parameters)
CASES = {
    "resnet20-stem": ("resnet20", 32, r"^conv1\.weight$"),
    "resnet20-middle": ("resnet20", 32, r"^layer2\.1\.conv1\.weight$"),
    "resnet20-head": ("resnet20", 32, r"^linear\."),
    "resnet32": ("resnet32", 32, ""),
    "resnet20": ("resnet20", 128, ""),
}
Matrix = NDArray[np.float64]
Product = Callable[[Matrix], Matrix]
TOP, BOTTOM, TOL, SMALL = 5, 2, 1e-7, 700


def load(network: str, examples: int) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    state = torch.load(DATA / "checkpoints" / FILES[network], map_location="cpu", weights_only=True)["state_dict"]
    images = np.load(DATA / "cifar10-lossless-6102.npz")
    x = torch.from_numpy(images["x_train"][:examples]).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    y = torch.from_numpy(images["y_train"][:examples].astype(np.int64))
    return {k.removeprefix("module."): v.double() for k, v in state.items()}, ((x - mean) / std).double(), y


def apply(w: dict[str, Tensor], x: Tensor) -> Tensor:
    def norm(x: Tensor, name: str) -> Tensor:
        parts = (w[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *parts, training=False)

    x = F.relu(norm(F.conv2d(x, w["conv1.weight"], padding=1), "bn1"))
    for stage in (1, 2, 3):
        for block in range(sum(re.fullmatch(rf"layer{stage}\.\d+\.conv1\.weight", k) is not None for k in w)):
            name = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            y = F.relu(norm(F.conv2d(x, w[f"{name}.conv1.weight"], stride=stride, padding=1), f"{name}.bn1"))
            y = norm(F.conv2d(y, w[f"{name}.conv2.weight"], padding=1), f"{name}.bn2")
            if stride == 2:
                quarter = x.shape[1] // 2
                x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, quarter, quarter))
            x = F.relu(x + y)
    return F.linear(F.adaptive_avg_pool2d(x, 1).flatten(1), w["linear.weight"], w["linear.bias"])


def _whole(product: Product, n: int) -> tuple[Matrix, Matrix, float]:
    matrix = np.stack([product(e) for e in np.eye(n)])
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return vectors[:, -TOP:], vectors[:, BOTTOM - 1 :: -1], float(np.abs(values).max())


def _ends(product: Product, n: int) -> tuple[Matrix, Matrix, float]:
    start = np.random.default_rng(0).standard_normal(n)
    h = LinearOperator((n, n), matvec=product, dtype=np.float64)
    top, above = eigsh(h, TOP, which="LA", tol=TOL, ncv=25, v0=start)
    scale = float(np.abs(top).max())
    # Shifted, so that ARPACK's tolerance is relative to lambda_max and not to an eigenvalue near zero.
    shifted = LinearOperator((n, n), matvec=lambda v: scale * v.reshape(-1) - product(v), dtype=np.float64)
    _, below = eigsh(shifted, BOTTOM, which="LA", tol=TOL, ncv=60, v0=start)
    return above, below, scale


def solve(network: str, examples: int, pattern: str) -> dict[str, object]:
    weights, x, y = load(network, examples)
    names = [k for k in weights if k.endswith((".weight", ".bias")) and re.search(pattern, k)]
    for k in names:
        weights[k].requires_grad_()
    parameters = [weights[k] for k in names]
    output = apply(weights, x)
    loss = F.cross_entropy(output, y)
    gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, parameters, create_graph=True)])
    n = gradient.numel()

    products = 0

    def product(v: Matrix) -> Matrix:
        nonlocal products
        products += 1
        if products % 20 == 0:
            print(network, pattern, products, "products", flush=True)
        parts = torch.autograd.grad(gradient @ torch.from_numpy(v.reshape(-1)), parameters, retain_graph=True)
        return torch.cat([p.reshape(-1) for p in parts]).numpy()

    def pairs(vectors: Matrix, scale: float | None) -> tuple[list[float], list[float]]:
        values, residuals = [], []
        for v in vectors.T:
            hv = product(v)
            values.append(float(v @ hv))
            residuals.append(float(np.linalg.norm(hv - values[-1] * v)) / (scale or 1.0))
        return values, residuals

    above, below, scale = _whole(product, n) if n <= SMALL else _ends(product, n)
    values, residuals = pairs(above[:, ::-1], scale)
    smallest, smallest_residuals = pairs(below[:, ::-1], scale)
    return {
        "network": network,
        "examples": examples,
        "params": pattern,
        "n": n,
        "loss": loss.item(),
        "accuracy": (output.argmax(1) == y).double().mean().item(),
        "gradient_norm": gradient.norm().item(),
        "top": values,
        "top_residuals": residuals,
        "bottom": smallest,
        "bottom_residuals": smallest_residuals,
    }


def main() -> None:
    for name in sys.argv[1:] or CASES:
        found = json.loads(OUT.read_text()) if OUT.exists() else {}
        found[name] = solve(*CASES[name])
        OUT.write_text(json.dumps({k: found[k] for k in CASES if k in found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
