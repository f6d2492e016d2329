"""Train one or several optimizers over one or several seeds, each pair into its own run folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from landscape.specs import TrainSpec

from .options import Common
from .screen import Screen, number, percent


@dataclass(frozen=True, kw_only=True)
class TrainCommon(Common):
    """Flags about files."""

    out: Path = Path("runs")
    """Folder of the run folders OPTIMIZER-seedN."""
    resume: bool = False
    """Continue unfinished runs."""
    force: bool = False
    """Start anew where a run exists."""


@dataclass(frozen=True)
class Arguments:
    """Arguments of ``landscape train``."""

    spec: TrainSpec = field(default_factory=TrainSpec)
    common: TrainCommon = field(default_factory=TrainCommon)


def run(arguments: Arguments, screen: Screen) -> dict[str, object]:
    """Train, print a row per run."""
    from landscape.api import train_spec
    from landscape.training.trainer import training_json

    common = arguments.common
    runs = train_spec(arguments.spec, common.out, resume=common.resume, force=common.force)
    objects = [training_json(r) for r in runs]
    rows = []
    for o in objects:
        final = o["final"]
        rows.append(
            [
                str(Path(o["path"]).relative_to(common.out.absolute())),
                o["steps"],
                number(final["train_loss"], 3),
                percent(final["train_accuracy"]),
                percent(final["test_accuracy"]),
                percent(final["unseen_accuracy"]),
                f"{o['seconds']:.1f}",
            ]
        )
    screen.table(["run", "steps", "train loss", "train acc", "test acc", "unseen acc", "seconds"], rows)
    screen.path("runs", common.out.absolute())
    return {"runs": objects}
