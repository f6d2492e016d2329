"""Adam, SAM, SAGM and DISAM on PACS, every domain held out in turn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from landscape import DomainsSpec, ProblemSpec, Result, TrainSpec, analyze, train, training_result


def compute(settings: dict[str, Any], work: Path, data: Path | None) -> list[Result]:
    """Train with each domain left out, then look at all domains."""
    if data is None:
        raise SystemExit("name the folder that holds PACS/domain/class/image: --data FOLDER")
    spec = TrainSpec.from_dict({"data": f"domains:{data / 'PACS'}", **settings["train"]})
    results = []
    for run in train(work / "runs", resume=True, **{k: v for k, v in spec.to_dict().items() if v != ()}):
        results.append(training_result(run))
        domains = DomainsSpec.from_dict(settings["domains"])
        results.append(analyze("domains", str(run.path), ProblemSpec.from_dict(settings["problem"]), domains))
    return results
