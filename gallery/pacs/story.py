"""SAM, SAGM and DISAM beside plain Adam on PACS at 64x64, every domain held out in turn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from landscape import DomainsSpec, ProblemSpec, Result, TrainSpec, analyze, training_result
from landscape.api import train_spec


def compute(settings: dict[str, Any], work: Path, data: Path | None) -> list[Result]:
    """Train with each domain left out; look closely at the runs without the one that `shown` names."""
    if data is None:
        raise SystemExit("name the folder that holds PACS/<domain>/<class>/<image>: --data FOLDER")
    spec = TrainSpec.from_dict({**settings["train"], "data": f"domains:{data / 'PACS'}"})
    runs = train_spec(spec, work / "runs", resume=True)
    close = [str(run.path) for run in runs if run.path.parent.name == f"unseen-{settings['shown']['holdout']}"]
    results = [training_result(run) for run in runs]
    for look in ("curves", "sharpness"):
        asked = settings[look]
        problem, what = ProblemSpec(examples=asked["examples"]), DomainsSpec.from_dict({look: True})
        results += [analyze("domains", target, problem, what) for target in close]
    return results
