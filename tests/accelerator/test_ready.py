"""The script that measures a real device runs on this one, so that it fails there for no reason of its own."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

from .pretend import Device

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


def test_the_script_for_real_devices(device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--device", "pretend", "--small", "--out", str(tmp_path)])
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    runpy.run_path(str(SCRIPT), run_name="__main__")
    facts = json.loads((tmp_path / "gpu-pretend.json").read_text())
    assert facts["device"] == "pretend"
    assert len(facts["agreement"]) == 13
    assert all(row["agrees"] for row in facts["agreement"])
    for name in ("ResNet-20", "transformer"):
        assert facts[name]["products"]["krylov_step_over_product"] > 0
        assert len(facts[name]["eigenvalues"]["eigenvalues"]) == 1
    assert facts["ResNet-20"]["training"]["over_two_gradients"]["SAM step"] > 0
    assert facts["ResNet-20"]["surface"]["over_bare"] > 0
    assert facts["tests"] == {"run": False, "reason": "tests/gpu is for CUDA, and this is pretend"}
