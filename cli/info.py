"""What a run, a checkpoint or a stored result contains."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from .options import Common
from .screen import Screen, number, percent


@dataclass(frozen=True)
class Arguments:
    """Arguments of ``landscape info``."""

    target: Positional[str]
    """A run folder, RUN@best, RUN@step=N, a checkpoint file or a stored result (.nc)."""
    common: Common = field(default_factory=Common)


def run(arguments: Arguments, screen: Screen) -> dict[str, Any]:
    """Look, print the facts."""
    from landscape.run import Run

    path = Path(arguments.target)
    if Run.is_run(path):
        facts = _run_facts(path)
    elif path.suffix == ".nc":
        facts = _result_facts(path)
    else:
        facts = _checkpoint_facts(arguments.target)
    screen.facts(
        [(k.replace("_", " "), v) for k, v in facts.items() if v is not None and not isinstance(v, (dict, list))]
    )
    for name, domain in (facts.get("domains") or {}).items():
        seen = "seen" if domain["seen"] else "unseen"
        screen.line(
            f"domain {name} ({seen}): train loss {number(domain['train_loss'])}, "
            f"test accuracy {percent(domain['test_accuracy'])}"
        )
    return {"command": "info", "outputs": [], **facts}


def _run_facts(path: Path) -> dict[str, Any]:
    from landscape.run import Run

    run = Run(path)
    record, spec = run.record, run.spec
    final = record.get("final") or {}
    return {
        "kind": "run",
        "path": str(run.path),
        "status": record.get("status"),
        "optimizer": (spec.get("optimizer") or [None])[0],
        "seed": (spec.get("seed") or [None])[0],
        "data": spec.get("data"),
        "model": spec.get("model"),
        "steps": record.get("steps"),
        "checkpoints": [str(p) for p in run.checkpoints().values()],
        "checkpoint_count": len(run.checkpoints()),
        "stored_results": len(list((run.path / "results").glob("*.nc"))),
        "weights_hash": record.get("weights_hash"),
        "train_loss": final.get("train_loss"),
        "test_accuracy": final.get("test_accuracy"),
        "unseen_accuracy": final.get("unseen_accuracy"),
        "domains": final.get("domains"),
        "spec": spec,
    }


def _result_facts(path: Path) -> dict[str, Any]:
    from landscape.result import Result

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
        "spec": record.get("spec"),
    }


def _checkpoint_facts(text: str) -> dict[str, Any]:
    from landscape.checkpoint import facts_of
    from landscape.target import Target

    path = Target.find(text).checkpoint
    return {"kind": "checkpoint", "path": str(path.absolute()), **facts_of(path)}
