"""Published networks on their own training images, against ARPACK on an independent product in float64."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

import landscape
from landscape.models.resnet import resnet20, resnet32
from landscape.weights.checkpoint import read_weights
from landscape.weights.load_state_dict import load_into

REFERENCES = json.loads(Path(__file__).with_name("reference_published.json").read_text())
DATA = Path(os.environ.get("LANDSCAPE_TEST_DATA", "/nowhere"))
NETWORKS = {"resnet20": (resnet20, "resnet20-12fca82f.th"), "resnet32": (resnet32, "resnet32-d509ac18.th")}
ERROR = {"float32": 5e-4, "float64": 1e-6}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.is_dir(), reason="LANDSCAPE_TEST_DATA names no folder with published checkpoints"),
]


def problem_of(case: str, dtype: str) -> landscape.Problem:
    reference = REFERENCES[case]
    build, name = NETWORKS[reference["network"]]
    model, file = build(), DATA / "checkpoints" / name
    load_into(model, read_weights(file), file)
    images, n = np.load(DATA / "cifar10-lossless-6102.npz"), reference["examples"]
    x = torch.from_numpy(images["x_train"][:n]).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    y = torch.from_numpy(images["y_train"][:n].astype(np.int64))
    params = reference["params"] or None
    return landscape.Problem(model, ((x - mean) / std, y), dtype=dtype, params=params, batch_size=24)


def check(case: str, dtype: str) -> float:
    """Compare one case; return the largest error of an eigenvalue relative to |lambda_max|."""
    reference, problem = REFERENCES[case], problem_of(case, dtype)
    tol = 1e-6 if dtype == "float64" else 1e-4
    result = landscape.hessian(problem, top=5, bottom=2, tol=tol, max_products=400)
    assert problem.n_parameters == reference["n"]
    assert result["loss"] == pytest.approx(reference["loss"], rel=1e-4 if dtype == "float32" else 1e-9)
    assert result["accuracy"] == reference["accuracy"]
    assert result["gradient_norm"] == pytest.approx(reference["gradient_norm"], rel=1e-2)
    scale = max(abs(v) for v in (*reference["top"], *reference["bottom"]))
    found = np.array([*result["eigenvalues"], *result["smallest"]])
    error = float(np.abs(found - [*reference["top"], *reference["bottom"]]).max() / scale)
    assert error <= ERROR[dtype], (case, dtype, error)
    assert max(result["residuals"] + result["smallest_residuals"]) <= tol
    return error


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", ["resnet20-head", "resnet20-middle", "resnet20-stem"])
def test_single_layers(case: str, dtype: str) -> None:
    check(case, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", ["resnet32", "resnet20"])
def test_whole_networks(case: str, dtype: str) -> None:
    check(case, dtype)
