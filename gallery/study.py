"""A shipped study, run and described; what is done in the work folder already is not done again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from landscape import Result, run_study


def compute(settings: dict[str, Any], work: Path, data: Path | None) -> list[Result]:
    """Train and measure all models, then compare and correlate."""
    del data
    study = settings["study"]
    options = {"size": study["size"], "changes": study.get("changes", ()), "workers": study.get("workers")}
    return [run_study(study["name"], work / "study", **options)]
