"""SGD, SAM, SAGM and DISAM on rotated digits: what `landscape demo` shows, with trajectories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from landscape import HessianSpec, Result, SharpnessSpec, SurfaceSpec, TrainSpec, analyze, training_result
from landscape.analyses.joint import surfaces
from landscape.api import train_spec


def compute(settings: dict[str, Any], work: Path, data: Path | None) -> list[Result]:
    """Train every method with every seed, and measure all ends in the same way."""
    runs = train_spec(TrainSpec.from_dict(settings["train"]), work / "runs", resume=True)
    by_seed = [[str(run.path) for run in runs if run.spec["seed"] == [s]] for s in settings["train"]["seed"]]
    results = [training_result(run) for run in runs]
    for kind, spec in (("hessian", HessianSpec), ("sharpness", SharpnessSpec)):
        results += [analyze(kind, str(run.path), spec=spec.from_dict(settings[kind])) for run in runs]
    results += surfaces(by_seed[0], spec=SurfaceSpec.from_dict(settings["surface"]), out=work)
    together = [run for seed in by_seed[:2] for run in seed]
    return results + surfaces(together, spec=SurfaceSpec.from_dict(settings["trajectories"]), out=work)
