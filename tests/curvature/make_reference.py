"""Make ``reference_resnet20.json``: eigenvalues of a published network, without a line of ``landscape``.

    LANDSCAPE_TEST_DATA=... python tests/curvature/make_reference.py

The network is written down here once more, the product is a plain double backward over one batch in float64,
and ARPACK (scipy) finds the eigenvalues to 1e-10.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse.linalg import LinearOperator, eigsh

DATA = Path(os.environ["LANDSCAPE_TEST_DATA"])
EXAMPLES = 32


def load() -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    state = torch.load(DATA / "checkpoints/resnet20-12fca82f.th", map_location="cpu", weights_only=True)["state_dict"]
    images = np.load(DATA / "cifar10-lossless-6102.npz")
    x = torch.from_numpy(images["x_train"][:EXAMPLES]).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    y = torch.from_numpy(images["y_train"][:EXAMPLES].astype(np.int64))
    return {k.removeprefix("module."): v.double() for k, v in state.items()}, ((x - mean) / std).double(), y


def network(w: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        parts = (w[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *parts, training=False)

    x = F.relu(norm(F.conv2d(x, w["conv1.weight"], padding=1), "bn1"))
    for stage in (1, 2, 3):
        for block in range(3):
            name = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            y = F.relu(norm(F.conv2d(x, w[f"{name}.conv1.weight"], stride=stride, padding=1), f"{name}.bn1"))
            y = norm(F.conv2d(y, w[f"{name}.conv2.weight"], padding=1), f"{name}.bn2")
            if stride == 2:
                quarter = x.shape[1] // 2
                x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, quarter, quarter))
            x = F.relu(x + y)
    return F.linear(F.adaptive_avg_pool2d(x, 1).flatten(1), w["linear.weight"], w["linear.bias"])


def main() -> None:
    weights, x, y = load()
    names = [k for k in weights if k.endswith((".weight", ".bias"))]
    for k in names:
        weights[k].requires_grad_()
    parameters = [weights[k] for k in names]
    output = network(weights, x)
    loss = F.cross_entropy(output, y)
    gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, parameters, create_graph=True)])
    n = gradient.numel()

    def product(v: np.ndarray) -> np.ndarray:
        parts = torch.autograd.grad(gradient @ torch.from_numpy(v.reshape(-1)), parameters, retain_graph=True)
        return torch.cat([p.reshape(-1) for p in parts]).numpy()

    operator = LinearOperator((n, n), matvec=product, dtype=np.float64)
    top = eigsh(operator, 5, which="LA", tol=1e-10, return_eigenvectors=False)
    found = {
        "examples": EXAMPLES,
        "n": n,
        "loss": loss.item(),
        "accuracy": (output.argmax(1) == y).double().mean().item(),
        "top": sorted(top.tolist(), reverse=True),
    }
    Path(__file__).with_name("reference_resnet20.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
