"""The statistics of a stored study by today's rules, from the numbers of every model that it stores.

    python gallery/restate.py sam-label-noise

What is not stored cannot be told anew: measures keep the definitions of the day on which they were computed (`OLD`
are left out, since theirs were wrong), and repeatability is what was found then. Claims and margins are those of the
experiment file of today, or of ``restated.toml`` in the story's folder where the stored arms are others.
"""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from landscape import Result
from landscape.specs.study import Experiment
from landscape.study.shipped import find
from landscape.study.study import describe
from landscape.study.table import Model, Table

HERE = Path(__file__).resolve().parent
OLD = ("lambda_1/edge",)  # over the edge of SGD with momentum, whatever the optimizer
BASELINES = ("learning rate", "batch size", "training loss", "steps")


@dataclass
class Stored(Table):
    """A table of stored numbers; of repeated measurements their agreement is stored."""

    agreement: Mapping[str, float | None] = field(default_factory=dict)

    def repeatability(self, name: str) -> float | None:
        """ICC(1) of a measure as it was found when it was measured."""
        return self.agreement.get(name)


def table_of(result: Result) -> Stored:
    """The models of a stored study with their outcomes and predictors."""
    record, data = result.record, result.data
    names = [str(n) for n in data["measure"].values]
    kept = [n for n in names if n not in OLD or record.get("claims")]  # claims came with the right edges
    sizes = {
        o["outcome"].removesuffix("gap_error").rstrip("_") or "test": o.get("n_test") for o in record["outcomes"]
    }
    models = []
    for i, known in enumerate(record["models"]):
        outcomes = dict(zip(map(str, data["outcome"].values), data["outcome_value"].values[i].tolist(), strict=True))
        values = dict(zip(names, data["value"].values[i].tolist(), strict=True))
        training = {
            **{k: v for k, v in known.items() if k not in ("name", "arm", "axes", "repetition")},
            "sizes": sizes,
            "training_seconds": outcomes.get("seconds_per_step", 0.0) * known["steps"],
        }
        record_of = {"training": training, "analyses": {}}
        where = (known["name"], known["arm"], known["axes"], known["repetition"])
        models.append(Model(*where, finite(outcomes), finite({k: values[k] for k in kept}), {}, record_of))
    courses = [n for n in kept if n.endswith(("(training mean)", "(last)"))]
    return Stored(
        models,
        record["dropped"],
        measures=[n for n in kept if n not in courses and n not in BASELINES],
        courses=courses,
        baselines=[n for n in kept if n in BASELINES],
        failed_analyses=record["failed_analyses"],
        controls=record["controls"],
        uniform=record["uniform"],
        agreement={r["measure"]: r["icc"] for r in record["correlations"]},
    )


def finite(values: Mapping[str, float]) -> dict[str, float]:
    """Without what is missing."""
    return {k: v for k, v in values.items() if v - v == 0}


def restated(result: Result, changes: Mapping[str, Any] | None = None) -> Result:
    """A stored study with the statistics and the answers of today.

    Args:
        result: The study.
        changes: ``report`` and ``claims`` in place of those of the experiment file.
    """
    content = tomllib.loads(Path(find(result.record["study"])).read_text(encoding="utf-8"))
    content = {k: v for k, v in content.items() if k != "tiny"} | dict(changes or {})
    asked = Experiment.from_content(content, result.record["study"])
    kept = (
        "target",
        "study",
        "label",
        "title",
        "claim",
        "decides",
        "size",
        "planned",
        "seeds",
        "stop_at",
        "selection",
    )
    facts = {k: result.record[k] for k in (*kept, "experiment")} | {"refuted_by": asked.refuted_by}
    return describe(table_of(result), asked.report, facts | {"restated": True}, asked.claims)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("name", help="a story that holds a study")
    folder = HERE / parser.parse_args().name
    (file,) = (folder / "results").glob("study-*.nc")
    changes = folder / "restated.toml"
    restated(Result.load(file), tomllib.loads(changes.read_text()) if changes.is_file() else None).save(file)


if __name__ == "__main__":
    main()
