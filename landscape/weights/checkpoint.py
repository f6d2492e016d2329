"""Checkpoints of strangers, read safely.

Reading never executes anything (``weights_only=True``, always said), never takes the memory that a file merely
claims, and checks integrity first: torch itself loads a zip checkpoint with a flipped bit in silence.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..base.errors import DataError, NumericalError, UsageError
from ..numerics.tensors import continuous
from .checkpoint_folders import weight_files
from .distributed_folders import INDEX, read_distributed
from .networks import choose
from .torch_files import read_torch
from .weights import own_format, tensors_hash

_MAX_HEADER = 100 * 2**20


@dataclass(frozen=True)
class Weights:
    """Tensors read from a file, all on the CPU.

    Attributes:
        tensors: By the names that stand in the file.
        format: ``safetensors``, ``zip`` or ``pickle``; of a folder with how many files.
        container: Keys under which the tensors were found (``"state_dict"``), or "".
        metadata: Text facts of a safetensors header.
        others: Where the file's other networks are.
        placeholders: Classes and functions that the file names and that were replaced, never constructed.
        left_out: Entries among the tensors in whose place such an object stood.
        key: What was asked for.
    """

    tensors: dict[str, Tensor]
    format: str
    container: str
    metadata: dict[str, str]
    others: tuple[str, ...] = ()
    placeholders: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    key: str | None = None


# -- reading ----------------------------------------------------------------------------------------------------


def read_weights(path: Path, key: str | None = None) -> Weights:
    """Read the weights in a checkpoint file, or in a folder of Hugging Face, Lightning or distributed checkpoints.

    Args:
        path: The file or folder.
        key: Which of several networks, as `choose` understands it.

    Raises:
        UsageError: If there is no such file, no such network, or it is a folder without weights.
        DataError: If the file is empty, truncated, damaged, unsafe, holds no weights, or several networks and no
            key says which.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path, key)
    if not path.exists():
        raise UsageError("there is no such file", str(path), "check the path")
    try:
        head = _head(path)
        _refuse_impostors(path, head)
        if _is_safetensors(path, head):
            content, metadata = _read_safetensors(path)
            kind, replaced = "safetensors", list[str]()
        else:
            content, kind, replaced = read_torch(path)
            metadata = {}
    except PermissionError as error:
        raise UsageError("the file may not be read", str(path), "check its permissions") from error
    found = choose(content, key, str(path))
    for name, tensor in found.tensors.items():
        _refuse_odd_tensor(name, tensor, path)
    return Weights(found.tensors, kind, found.place, metadata, found.others, tuple(replaced), found.left_out, key)


def _read_folder(folder: Path, key: str | None) -> Weights:
    files = weight_files(folder)
    if not files:
        raise UsageError("this folder holds no run and no weights", str(folder), "name a checkpoint file or a run")
    if folder / INDEX in files:
        found, replaced = read_distributed(folder, key)
        for name, tensor in found.tensors.items():
            _refuse_odd_tensor(name, tensor, folder)
        kind = f"distributed, {len(files) - 1} files"
        return Weights(found.tensors, kind, found.place, {}, found.others, replaced, found.left_out, key)
    tensors: dict[str, Tensor] = {}
    for file, names in files.items():
        weights = read_weights(file, key)
        if len(files) == 1 and names is None:
            return weights
        lacking = sorted(set(names or ()) - set(weights.tensors))
        if lacking:
            raise DataError(
                f"{len(lacking)} tensor(s) that the index places here are missing: {', '.join(lacking[:10])}",
                str(file),
                "copy the folder again",
            )
        tensors.update({n: weights.tensors[n] for n in names or ()})
    return Weights(tensors, f"{weights.format}, {len(files)} shards", "", weights.metadata)


def _head(path: Path) -> bytes:
    with open(path, "rb") as handle:
        return handle.read(1024)


def _refuse_impostors(path: Path, head: bytes) -> None:
    start = head.lstrip()[:64].lower()
    if not head:
        raise DataError("the file is empty (0 bytes)", str(path), "copy or save it again")
    if head.startswith(b"version https://git-lfs"):
        raise DataError(
            "this is a Git LFS pointer, not the weights", str(path), "run `git lfs pull` where it came from"
        )
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise DataError("this is a web page, not a checkpoint", str(path), "download the file itself, not its page")


def _is_safetensors(path: Path, head: bytes) -> bool:
    return path.suffix == ".safetensors" or (len(head) > 8 and head[8:9] == b"{" and not head.startswith(b"PK"))


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    with open(path, "rb") as handle:
        claimed = int.from_bytes(handle.read(8), "little")
    size = path.stat().st_size
    if claimed > _MAX_HEADER or claimed + 8 > size:
        raise DataError(
            f"its header claims {claimed:,} bytes of a file of {size:,}",
            str(path),
            "the file is truncated or damaged",
        )
    try:
        with safe_open(path, framework="pt", device="cpu") as handle:
            metadata = dict(handle.metadata() or {})
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise DataError(f"the safetensors file is damaged: {error}", str(path), "copy or save it again") from error
    return own_format(metadata, tensors, path), metadata


def _refuse_odd_tensor(name: str, tensor: Tensor, path: Path) -> None:
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
        raise DataError(f"tensor {name!r} is sparse, quantized or without data", str(path), "save dense tensors")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise DataError(
            f"tensor {name!r} claims shape {tuple(tensor.shape)} on {tensor.untyped_storage().nbytes()} bytes",
            str(path),
            "do not use it",
        )


def require_finite(name: str, tensor: Tensor, where: str) -> None:
    """Refuse a tensor with NaN or infinities.

    Raises:
        NumericalError: Naming the tensor and how many values are bad.
    """
    bad = int((~torch.isfinite(tensor)).sum())
    if bad:
        raise NumericalError(f"{name} holds {bad} NaN or infinite value(s)", where, "use an earlier checkpoint")


def facts_of(path: Path, key: str | None = None) -> dict[str, Any]:
    """What a checkpoint holds: format, networks, tensors, elements, types, SHA-256, and what was not constructed.

    Raises:
        UsageError, DataError: As `read_weights`.
        NumericalError: If a tensor holds NaN or infinities.
    """
    weights = read_weights(path, key)
    for name, tensor in weights.tensors.items():
        if continuous(tensor):
            require_finite(name, tensor, str(path))
    return {
        "format": weights.format,
        "container": weights.container or None,
        "networks": [n for n in (weights.container, *weights.others) if n],
        "placeholders": list(weights.placeholders),
        "left_out": list(weights.left_out),
        "tensors": len(weights.tensors),
        "elements": sum(t.numel() for t in weights.tensors.values()),
        "types": ", ".join(sorted({str(t.dtype).removeprefix("torch.") for t in weights.tensors.values()})),
        "weights_hash": tensors_hash(weights.tensors),
        "shapes": {n: list(t.shape) for n, t in weights.tensors.items()},
    }
