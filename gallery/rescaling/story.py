"""Which measures of flatness tell apart networks that compute the same function?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from landscape import ProblemSpec, Result, SharpnessSpec, TrainSpec, analyze
from landscape.api import train_spec


def compute(settings: dict[str, Any], work: Path, data: Path | None) -> list[Result]:
    """Train one network and measure it and its rescaled twins."""
    (run,) = train_spec(TrainSpec.from_dict(settings["train"]), work / "runs", resume=True)
    problem, spec = ProblemSpec.from_dict(settings["problem"]), SharpnessSpec.from_dict(settings["sharpness"])
    return [analyze("sharpness", str(run.path), problem, spec)]
