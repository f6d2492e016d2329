"""The spectrum of the Hessian while SGD and SAM train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from landscape import HessianSpec, Result, SurfaceSpec, TrainSpec, analyze
from landscape.api import train_spec


def compute(settings: dict[str, Any], work: Path, data: Path | None) -> list[Result]:
    """Train, then look at every checkpoint along the same directions."""
    runs = train_spec(TrainSpec.from_dict(settings["train"]), work / "runs", resume=True)
    targets = [f"{run.path}@step={step}" for run in runs for step in run.checkpoints()]
    hessians = [analyze("hessian", t, spec=HessianSpec.from_dict(settings["hessian"])) for t in targets]
    return [*hessians, *(analyze("surface", t, spec=SurfaceSpec.from_dict(settings["surface"])) for t in targets)]
