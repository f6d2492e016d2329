"""Putting the weights of a file into a network: every key, shape and kind of number accounted for."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from .checkpoint import Weights, require_finite
from .errors import DataError
from .weights import ties

log = logging.getLogger(__name__)

_PREFIXES = ("module.", "_orig_mod.", "model.", "network.", "net.")


def load_into(model: nn.Module, weights: Weights, where: Path | str) -> None:
    """Copy ``weights`` into ``model``; prefixes of wrappers are stripped, with a notice.

    Raises:
        DataError: If keys are missing or unexpected, or a shape or kind of number does not fit.
        NumericalError: If a tensor holds NaN or infinities.
    """
    place = str(where)
    expected = model.state_dict()
    given = _strip_prefixes(weights.tensors, set(expected), place)
    _match_keys(given, expected, place)
    halves = {
        str(t.dtype).removeprefix("torch.") for t in given.values() if t.dtype in (torch.float16, torch.bfloat16)
    }
    cast = {name: _cast(name, tensor, expected[name], place) for name, tensor in given.items() if name in expected}
    if halves:
        log.warning("%s: weights in %s are cast to the model's type", place, " and ".join(sorted(halves)))
    with torch.no_grad():
        for name, tensor in cast.items():
            expected[name].copy_(tensor)


def _strip_prefixes(tensors: dict[str, Tensor], expected: set[str], where: str) -> dict[str, Tensor]:
    stripped = ""
    while not set(tensors) & expected or not expected <= set(tensors):
        prefix = next((p for p in _PREFIXES if any(k.startswith(p) for k in tensors)), None)
        if prefix is None:
            break
        candidate = {k.removeprefix(prefix): v for k, v in tensors.items()}
        if len(candidate) < len(tensors) or len(set(candidate) & expected) < len(set(tensors) & expected):
            break
        tensors, stripped = candidate, stripped + prefix
    if stripped:
        log.warning("%s: stripped the prefix %r from its keys", where, stripped)
    return tensors


def _match_keys(given: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str) -> None:
    tied = ties(expected)
    missing = [
        k
        for k in expected
        if k not in given and not any(t in given for t in tied.get(k, ())) and not k.endswith("num_batches_tracked")
    ]
    unexpected = [k for k in given if k not in expected]
    if missing or unexpected:
        parts = [
            f"{len(keys)} {word} key(s): {', '.join(keys[:10])}{', ...' if len(keys) > 10 else ''}"
            for word, keys in (("missing", missing), ("unexpected", unexpected))
            if keys
        ]
        raise DataError("; ".join(parts), where, "is it another model, or --model-arg?")


def _cast(name: str, tensor: Tensor, target: Tensor, where: str) -> Tensor:
    if tensor.shape != target.shape:
        raise DataError(
            f"{name} has shape {tuple(tensor.shape)}, the model expects {tuple(target.shape)}",
            where,
            "is it another model, or another number of classes?",
        )
    if tensor.is_floating_point() != target.is_floating_point() or tensor.is_complex() != target.is_complex():
        raise DataError(
            f"{name} holds {tensor.dtype}, the model expects {target.dtype}".replace("torch.", ""),
            where,
            "save real weights",
        )
    if not tensor.is_floating_point():
        return tensor
    require_finite(name, tensor, where)
    cast = tensor.to(target.dtype)
    if not torch.isfinite(cast).all():
        raise DataError(
            f"{name} does not fit into {target.dtype}".replace("torch.", ""), where, "use --dtype float64"
        )
    return cast
