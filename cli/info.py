"""What a run, a checkpoint or a stored result contains."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from .options import Common
from .screen import MOST_ROWS, Screen, number, percent


@dataclass(frozen=True)
class Arguments:
    """Arguments of ``landscape info``."""

    target: Positional[str]
    """A run folder, RUN@best, RUN@step=N, a checkpoint file or a stored result (.nc)."""
    key: str | None = None
    """Which network inside a checkpoint that holds several."""
    common: Common = field(default_factory=Common)


def run(arguments: Arguments, screen: Screen) -> dict[str, object]:
    """Look, print the facts."""
    from landscape.results.run import Run

    path = Path(arguments.target)
    if Run.is_run(path):
        facts = _run_facts(path, most=None if screen.json else MOST_ROWS)
    elif path.suffix == ".nc":
        facts = _result_facts(path)
    else:
        facts = _checkpoint_facts(arguments.target, arguments.key)
    screen.facts(
        [(k.replace("_", " "), v) for k, v in facts.items() if v is not None and not isinstance(v, (dict, list))]
    )
    screen.lines(
        [
            f"domain {name} ({'seen' if domain['seen'] else 'unseen'}): train loss {number(domain['train_loss'])}, "
            f"test accuracy {percent(domain['test_accuracy'])}"
            for name, domain in (facts.get("domains") or {}).items()
        ]
    )
    for name, what in (("networks", "--key chooses"), ("placeholders", "never constructed")):
        if facts.get(name):
            screen.facts([(f"{name} ({what})", ", ".join(facts[name][:MOST_ROWS]))])
            screen.left_out(len(facts[name]) - MOST_ROWS, name)
    looked_at = [facts, *facts.get("results", ())] if "stale" in facts else []
    screen.facts([(Path(one["path"]).name, _told(one)) for one in looked_at])
    if "results" in facts:
        screen.left_out(facts["stored_results"] - len(facts["results"]), "results, not looked at")
    return {"command": "info", "outputs": [], **facts}


def _told(one: dict[str, Any]) -> str:
    return "; ".join([*one["stale"], *one["unknown"]]) or "nothing has changed since it was made"


def _since(kind: str, record: dict[str, Any], stored: Path | None = None) -> dict[str, list[str]]:
    from landscape.results.staleness import since_of

    found = since_of(kind, record, stored)
    return {"stale": list(found.stale), "unknown": list(found.unknown)}


def _stored(run: Any, most: int | None) -> list[dict[str, object]]:
    """What has changed since the stored results of a run were made; of ``most`` the newest are looked at."""
    from landscape.base.errors import LandscapeError
    from landscape.base.progress import report
    from landscape.results.result import Result
    from landscape.results.staleness import one_look

    files = sorted((run.path / "results").glob("*.nc"), key=lambda p: (-p.stat().st_mtime_ns, p.name))[:most]
    found: list[dict[str, Any]] = []
    with one_look():
        for i, file in enumerate(files):
            report("results", i, len(files), file.name)
            try:
                result = Result.load(file)
                found.append({"path": str(file), "kind": result.kind, **_since(result.kind, result.record, file)})
            except LandscapeError as error:
                unknown = [f"cannot be read: {error.what}"]
                found.append({"path": str(file), "kind": None, "stale": [], "unknown": unknown})
    report("results", len(files), len(files))
    return found


def _run_facts(path: Path, most: int | None) -> dict[str, Any]:
    from landscape.results.run import Run

    run = Run(path)
    record = run.record
    spec = record["spec"]
    final = record.get("final") or {}
    checkpoints = run.checkpoints()
    return {
        "kind": "run",
        "path": str(run.path),
        "status": record.get("status"),
        "optimizer": (spec.get("optimizer") or [None])[0],
        "seed": (spec.get("seed") or [None])[0],
        "data": spec.get("data"),
        "model": spec.get("model"),
        "steps": record.get("steps"),
        "checkpoints": [str(p) for p in checkpoints.values()],
        "checkpoint_count": len(checkpoints),
        "stored_results": len(list((run.path / "results").glob("*.nc"))),
        "weights_hash": record.get("weights_hash"),
        "train_loss": final.get("train_loss"),
        "test_accuracy": final.get("test_accuracy"),
        "unseen_accuracy": final.get("unseen_accuracy"),
        "domains": final.get("domains"),
        "spec": spec,
        **_since("training", record),
        "results": _stored(run, most),
    }


def _result_facts(path: Path) -> dict[str, object]:
    from landscape.results.result import Result

    result = Result.load(path)
    record = result.record
    return {
        "kind": f"result of {result.kind}",
        "path": str(result.path),
        "target": record.get("target"),
        "arrays": ", ".join(f"{n}{tuple(v.shape)}" for n, v in result.data.data_vars.items()),
        "n_examples": record.get("n_examples"),
        "data_hash": record.get("data_hash"),
        "weights_hash": record.get("weights_hash"),
        "threads": _threads(record),
        "spec": record.get("spec"),
        "identity": record.get("identity"),
        **_since(result.kind, record, result.path),
    }


def _threads(record: dict[str, Any]) -> str | None:
    """How many computed it, and how they waited for each other."""
    count, wait = record.get("threads"), record.get("threads_wait")
    return f"{count}, waiting {wait}" if isinstance(count, int) and count > 1 and wait else str(count or "") or None


def _checkpoint_facts(text: str, key: str | None) -> dict[str, object]:
    from landscape.results.target import Target
    from landscape.weights.checkpoint import facts_of

    path = Target.find(text).checkpoint
    return {"kind": "checkpoint", "path": str(path.absolute()), **facts_of(path, key)}
