"""The words on the axes of a surface, from what the result says of its directions and from nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...results.result import Result
from .text import safe

_RANDOM = {
    "filter": "filter-normalised",
    "layer": "layer-normalised",
    "model": "Gaussian, scaled to ‖w‖",
    "gaussian": "Gaussian",
    "unit": "Gaussian of length 1",
}


def axis_text(symbol: str, result: Result, axis: int) -> str:
    """For example ``α (filter-normalised, 1-D fixed)``; names the treatment of BatchNorm where there is any."""
    record = result.record
    kinds = record.get("axes") or []
    facts = kinds[axis] if axis < len(kinds) else {}
    direction = facts.get("direction")
    parts = [_RANDOM.get(direction) or _special(str(direction), facts)] if direction else []
    if direction in _RANDOM and record.get("fixed_parameters") and facts.get("one_dimensional", "zero") == "zero":
        parts.append("1-D fixed")
    if record.get("batchnorm_layers"):
        parts.append(f"BatchNorm: {safe(record.get('bn_policy'))}")
    return f"{symbol} ({', '.join(parts)})" if parts else symbol


def _special(direction: str, facts: Mapping[str, Any]) -> str:
    """Words for a direction that was computed, with the number that says how much it matters."""
    kind, _, argument = direction.partition(":")
    if kind == "pca" and facts.get("explained_variance") is not None:  # about the reference, not about a mean
        return f"PC{safe(argument)}, {100 * facts['explained_variance']:.1f} % of squared distances"
    if kind == "eigvec" and facts.get("eigenvalue") is not None:
        return f"eigenvector {safe(argument)}, λ = {facts['eigenvalue']:.3g}"
    if kind in ("sam", "asam") and facts.get("rho") is not None:
        return f"{kind.upper()} steps of ρ = {facts['rho']:g}"
    if kind == "grad":
        return "gradient, length 1"
    if kind == "domain-grad":
        return f"gradient of {safe(argument)}, length 1"
    if kind == "checkpoint":
        return f"towards {safe(argument.rpartition('/')[2])}"
    return safe(direction, 48)


def shared_axis_text(symbol: str, results: Sequence[Result], axis: int) -> str:
    """The axis text of all ``results``; where they differ, every one of them."""
    return " or ".join(dict.fromkeys(axis_text(symbol, r, axis) for r in results))


def direction_notes(results: Sequence[Result]) -> list[str]:
    """Which directions were looked along, and a warning where they are not the same for all."""
    asked = {
        tuple((a.get("direction"), a.get("seed"), a.get("axis")) for a in r.record.get("axes") or []) for r in results
    }
    if len(asked) > 1:
        return ["not all results look along directions of the same kind and seed: their shapes cannot be compared"]
    seeds = sorted({str(seed) for axes in asked for _, seed, _ in axes if seed is not None})
    drawn = f", drawn with seed {', '.join(seeds)} and scaled to each network" if seeds else ""
    return [f"the same directions for all results{drawn}; a slice or a plane shows these directions only"]
