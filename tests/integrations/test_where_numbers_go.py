"""What a record logs arrives in Weights & Biases, MLflow and TensorBoard under the one name it has in our log."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from environments import environment

PACKAGES, UNCONSTRAINED = ["wandb==0.31.0"], ["mlflow-skinny==3.17.2"]  # which wants older versions of what we have
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def python(libraries: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return environment(tmp_path_factory.mktemp("places") / "environment", PACKAGES, UNCONSTRAINED)


def arrived(python: Path, loop: str, folder: Path) -> list[dict[str, Any]]:
    """Our log, Weights & Biases, MLflow, TensorBoard: by name, steps and values."""
    spec = importlib.util.find_spec("lightning")
    assert spec is not None
    assert spec.origin is not None
    places = [ROOT, Path(spec.origin).parents[1]]
    words = [python, Path(__file__).with_name("logged_by.py"), loop, folder]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places)), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, env=environ, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["plain", "lightning", "transformers"])
def test_one_name_for_each_quantity(loop: str, python: Path, tmp_path: Path) -> None:
    ours, *places = arrived(python, loop, tmp_path)
    ours.pop("epoch", None)  # which these loops log themselves
    expected = {"batch/loss", "lr", "probe/eigenvalues/lambda_1", "evaluation/val_loss"}
    by_domain = {"batch/domain/rot 15_-eb4d7b1a", "probe/domain-losses/art", "probe/domain-variance/before"}
    assert expected | (by_domain if loop != "transformers" else set()) <= set(ours)
    assert any(name.startswith("probe/m-sharpness/m_") for name in ours)
    for place in places[: 2 if loop == "plain" else 3]:
        assert not set(ours) - set(place)
        assert not [n for n in place if n.endswith(tuple(ours)) and n not in ours]  # none with something before it
        for name, values in ours.items():
            assert [s for s, _ in place[name]] == [s for s, _ in values], name
            assert [v for _, v in place[name]] == pytest.approx([v for _, v in values], rel=1e-6), name
