"""What a run logs, as scalars of TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FOLDER = "tensorboard"  # in the run folder


def scalars(line: Mapping[str, Any]) -> dict[str, float | None]:
    """Tags and numbers of one line of ``metrics.jsonl``.

    ``batch/...`` is of the step's batch, ``evaluation/...`` of whole splits, ``domain/NAME/...`` of single domains,
    ``probe/...`` what was recorded beside.
    """
    found: dict[str, Any] = {"batch/loss": line.get("loss"), "lr": line.get("lr"), "epoch": line.get("epoch")}
    for domain, loss in (line.get("domains") or {}).items():
        found[f"batch/domain/{domain}"] = loss
    evaluation = dict(line.get("evaluation") or {})
    for domain, values in (evaluation.pop("domains", None) or {}).items():
        found |= {f"domain/{domain}/{k}": v for k, v in values.items()}
    found |= {f"evaluation/{k}": v for k, v in evaluation.items()}
    for probe, values in (line.get("probes") or {}).items():
        found |= {f"probe/{probe}/{k}": v for k, v in values.items()}
    return {k: float(v) for k, v in found.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
