"""What people point at: a run, one of its checkpoints, or a bare file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.errors import DataError, UsageError
from .run import Run, step_of


@dataclass(frozen=True)
class Target:
    """A checkpoint to look at: its file, and the run it belongs to (None for a bare file)."""

    checkpoint: Path
    run: Run | None

    @classmethod
    def find(cls, text: str) -> Target:
        """Understand ``RUN``, ``RUN@best``, ``RUN@selected``, ``RUN@step=N`` or a checkpoint file.

        Raises:
            UsageError: If there is no such thing; says what there is.
        """
        name, at, which = text.rpartition("@")
        if at and not Path(text).exists() and Run.is_run(name):
            run = Run(name)
            return cls(run.checkpoint(which), run)
        path = Path(text)
        if Run.is_run(path):
            return cls(Run(path).checkpoint(), Run(path))
        if not path.exists():
            raise UsageError("there is no such run or checkpoint", text, "name a run folder or a checkpoint file")
        parent = path.absolute().parent.parent
        inside = path.absolute().parent.name == "checkpoints" and Run.is_run(parent)
        return cls(path.absolute(), Run(parent) if inside else None)

    @property
    def results(self) -> Path:
        """Where its analyses are stored."""
        return self.run.path / "results" if self.run else Path("landscape-results").absolute()

    def facts(self) -> dict[str, Any] | None:
        """Optimizer, seed and step of its run, for records and figures.

        A file that somebody else put among the run's checkpoints has no step.

        Raises:
            DataError: If ``run.json`` does not say which optimizer and seed it was.
        """
        if self.run is None:
            return None
        record = self.run.record
        spec = record["spec"]
        if not (spec.get("optimizer") and spec.get("seed")):
            raise DataError(
                "run.json does not say its optimizer and seed", str(self.run.path / "run.json"), "restore it"
            )
        step = step_of(self.checkpoint)
        logged = next((line for line in self.run.metrics() if step is not None and line.get("step") == step), {})
        return {
            "path": str(self.run.path),
            "optimizer": arm(spec),
            "seed": spec["seed"][0],
            "step": step,
            "epoch": logged.get("epoch"),
            "lr_at_step": logged.get("lr"),
            **{k: spec.get(k) for k in _SETTINGS},
            **made_of(record),
        }


_SETTINGS = (
    *("lr", "momentum", "weight_decay", "base", "average", "batch_size", "rho", "alpha", "lam", "gamma"),
    *("adaptive", "p", "m", "ascent_steps", "order", "weight_decay_in_perturbation"),
)


def made_of(record: Mapping[str, Any]) -> dict[str, str | None]:
    """Which network was trained on which data: runs that differ in one of them are no two seeds of one method.

    Args:
        record: A ``run.json``. A loop of the user's may not say how its network is called, but has its class.
    """
    spec, loop = record["spec"], record.get("recorder") or {}
    network = spec.get("model")
    if not network and loop.get("network"):
        network = f"{str(loop['network']).rpartition('.')[2]} of {loop.get('parameters')} parameters"
    return {
        "network": _with_arguments(network, spec.get("model_arg")),
        "data": _with_arguments(spec.get("data"), spec.get("data_arg")),
    }


def _with_arguments(name: str | None, arguments: Sequence[str] | None) -> str | None:
    told = [a for a in arguments or () if not a.startswith("seed=")]
    return " ".join([name, *told]) if name else None


def arm(spec: Mapping[str, Any]) -> str:
    """What a run is compared as: its optimizer, marked where it was given twice the epochs."""
    return str(spec["optimizer"][0]) + ("-2x" if spec.get("equal_cost") else "")
