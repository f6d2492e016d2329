"""A published ResNet-20 on its own training images, against ARPACK on an independent product in float64."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

import landscape
from landscape.checkpoint import read_weights
from landscape.fitting import load_into
from landscape.models.resnet import resnet20

REFERENCE = json.loads(Path(__file__).with_name("reference_resnet20.json").read_text())
DATA = Path(os.environ.get("LANDSCAPE_TEST_DATA", "/nowhere"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.is_dir(), reason="LANDSCAPE_TEST_DATA names no folder with published checkpoints"),
]


@pytest.mark.parametrize(
    ("dtype", "error"),
    [("float32", 1e-3), ("float64", 1e-6)],
    ids=["float32", "float64"],
)
def test_eigenvalues_agree(dtype: str, error: float) -> None:
    model = resnet20()
    file = DATA / "checkpoints/resnet20-12fca82f.th"
    load_into(model, read_weights(file), file)
    images = np.load(DATA / "cifar10-lossless-6102.npz")
    n = REFERENCE["examples"]
    x = torch.from_numpy(images["x_train"][:n]).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    y = torch.from_numpy(images["y_train"][:n].astype(np.int64))
    problem = landscape.Problem(model, ((x - mean) / std, y), dtype=dtype, batch_size=24)
    result = landscape.hessian(problem, top=5, tol=1e-6)
    assert problem.n_parameters == REFERENCE["n"]
    assert result["loss"] == pytest.approx(REFERENCE["loss"], rel=1e-4 if dtype == "float32" else 1e-9)
    assert result["accuracy"] == REFERENCE["accuracy"]
    scale = REFERENCE["top"][0]
    np.testing.assert_allclose(result["eigenvalues"], REFERENCE["top"], rtol=0, atol=error * scale)
    assert max(result["residuals"]) <= 1e-6
