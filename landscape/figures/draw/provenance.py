"""Where a figure's numbers come from, as text for the metadata of files."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from typing import Any

from ...results.result import Result


def sources(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Weights, examples and definition of every result, sorted, without paths (they differ between machines)."""
    facts = [
        {
            "kind": r.kind,
            "label": r.label,
            "seed": r.seed,
            "weights": r.record.get("weights_hash"),
            "data": r.record.get("data_hash"),
            "examples": r.record.get("n_examples"),
            "axes": r.record.get("axes"),
            "batchnorm": r.record.get("bn_policy"),
            "torch": r.record.get("torch"),
        }
        for r in results
    ]
    kept = [{k: v for k, v in one.items() if v is not None} for one in facts]
    return sorted(kept, key=lambda one: json.dumps(one, sort_keys=True))


def versions() -> dict[str, str]:
    """Versions of what draws the figures."""
    import matplotlib
    import numpy

    return {
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "matplotlib": matplotlib.__version__,
    }


def metadata(form: str, kind: str, results: Sequence[Result]) -> dict[str, Any]:
    """Metadata in the keys that a format knows, without a date."""
    title = f"landscape: {kind}"
    origin = json.dumps(sources(results), sort_keys=True)
    made = ", ".join(f"{k} {v}" for k, v in versions().items())
    if form == "pdf":
        return {"Title": title, "Subject": origin, "Keywords": made, "CreationDate": None}
    if form == "svg":
        return {"Title": title, "Description": origin, "Keywords": [made], "Date": None}
    return {"Title": title, "Description": origin, "Comment": made}
