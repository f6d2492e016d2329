"""What a run logs, as numbers by name: the same in TensorBoard, Weights & Biases and MLflow."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..base.labels import metric_name

FOLDER = "tensorboard"  # in the run folder


def scalars(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of one row of ``metrics.jsonl``, by the one name that each has everywhere.

    ``batch/...`` is of the step's batch, ``evaluation/...`` of whole splits, ``domain/NAME/...`` of single domains,
    ``probe/...`` what was recorded beside. ``landscape train --tensorboard`` and the callbacks for Lightning and
    Hugging Face log under these names. In a loop of one's own ``log=`` of `landscape.record` tells any logger:
    ``lambda row: wandb.log(landscape.scalars(row), step=row["step"])``,
    ``lambda row: mlflow.log_metrics(landscape.scalars(row), step=row["step"])``.

    Args:
        row: As it stands in the log; nested.

    Returns:
        What is a finite number. Of domains' names what not every logger takes is replaced (`metric_name`).

    Example:
        >>> import landscape
        >>> row = {"step": 7, "loss": 0.5, "probes": {"eigenvalues": {"lambda_1": 12.0}}, "domains": {"art": 0.25}}
        >>> landscape.scalars(row)
        {'batch/loss': 0.5, 'batch/domain/art': 0.25, 'probe/eigenvalues/lambda_1': 12.0}
    """
    found: dict[str, Any] = {"batch/loss": row.get("loss"), "lr": row.get("lr"), "epoch": row.get("epoch")}
    for domain, loss in (row.get("domains") or {}).items():
        found[f"batch/domain/{metric_name(domain)}"] = loss
    evaluation = dict(row.get("evaluation") or {})
    for domain, values in (evaluation.pop("domains", None) or {}).items():
        found |= {f"domain/{metric_name(domain)}/{k}": v for k, v in values.items()}
    found |= {f"evaluation/{metric_name(k)}": v for k, v in evaluation.items()}
    for probe, values in (row.get("probes") or {}).items():
        found |= {f"probe/{probe}/{metric_name(k)}": v for k, v in values.items()}
    return {k: float(v) for k, v in found.items() if _finite(v)}


def _finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
