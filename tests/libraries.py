"""The libraries whose networks and training loops are tried, installed once for all processes of a run."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest
from environments import environment, site_packages
from filelock import FileLock

LIBRARIES = {
    "torchvision": "0.28.0",
    "timm": "1.0.31",
    "transformers": "5.24.0",
    "accelerate": "1.15.0",
    "peft": "0.21.2",
    "lightning": "2.6.6",
}


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Make them importable here; where they are installed they are taken as they are."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    if not all(importlib.util.find_spec(name) for name in LIBRARIES):
        folder = _installed(tmp_path_factory.getbasetemp())
        sys.path.append(str(site_packages(folder)))
    importlib.import_module("declared_operators")


def _installed(temporary: Path) -> Path:
    shared = temporary.parent if "PYTEST_XDIST_WORKER" in os.environ else temporary
    folder = shared / "libraries"
    with FileLock(shared / "libraries.lock"):
        if not (folder / "complete").exists():
            environment(folder, [f"{name}=={version}" for name, version in LIBRARIES.items()])
            (folder / "complete").touch()
    return folder
