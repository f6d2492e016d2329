"""The script for machines with a GPU, run on the CPU at its smallest: it runs, and says what it promises to say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .launch import HERE, LIMIT, environment


@pytest.mark.slow
def test_the_gpu_script(tmp_path: Path):
    script = HERE.parent / "benchmarks" / "gpu.py"
    done = subprocess.run(
        [sys.executable, script, "--device", "cpu", "--small", "--out", tmp_path],
        env=environment(tmp_path), timeout=LIMIT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "gpu-cpu.json").read_text())
    assert {(row["analysis"], row["dtype"]) for row in facts["agreement"]} >= {
        (analysis, dtype)
        for analysis in ("basics", "hessian", "sharpness", "domains", "surface", "path")
        for dtype in ("float64", "float32")
    } | {("train", "float64")}
    assert all(row["distance"] == 0 and row["agrees"] for row in facts["agreement"])  # the CPU agrees with itself
    for name in ("ResNet-20", "transformer"):
        assert facts[name]["products"]["seconds"]["gradient"]["least"] > 0
        assert facts[name]["products"]["krylov_step_over_product"] > 0
        assert len(facts[name]["eigenvalues"]["eigenvalues"]) == 1
    assert facts["ResNet-20"]["training"]["over_two_gradients"]["SAM step"] > 0
    assert not facts["tests"]["run"]
    assert facts["device"]
    assert "times its bare forward passes" in (tmp_path / "gpu-cpu.md").read_text()
