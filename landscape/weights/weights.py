"""Weights as files and as hashes: what a checkpoint holds, written atomically, with equal bytes for equal content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..base.errors import DataError
from ..base.files import atomic_path
from ..numerics.tensors import as_real

FORMAT_VERSION = 1
_FACTS = "landscape"
_COMPLEX = "complex"


def stored_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The tensors a checkpoint holds: the model's ``state_dict`` names, shared memory once (under its first name)."""
    state = {k: v.detach() for k, v in model.state_dict().items() if isinstance(v, Tensor)}
    tied = ties(state)
    order = {name: i for i, name in enumerate(state)}
    return {k: v for k, v in state.items() if all(order[k] < order[t] for t in tied.get(k, ()))}


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and bytes, independent of order, device and memory layout."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = plain(tensors[name])
        total.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        total.update(tensor.flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return total.hexdigest()


def plain(tensor: Tensor) -> Tensor:
    """A tensor's numbers as they are read, one after the other on the CPU: nothing conjugated only in name."""
    own = tensor.detach().cpu()
    own = own if own.layout == torch.strided else own.to_dense()
    return own.resolve_conj().resolve_neg().contiguous()


def weights_hash(model: nn.Module) -> str:
    """SHA-256 of a model's parameters and buffers."""
    return tensors_hash(stored_tensors(model))


def save_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, object] | None = None) -> str:
    """Write tensors as safetensors, atomically, with their SHA-256 in the header; return the SHA-256.

    The format does not know all complex types: a complex tensor is written as pairs ``(..., 2)`` of its real and
    imaginary parts, and the header names it under ``complex``; reading makes it complex again.
    Equal content gives equal bytes: all facts stand in one entry of the header, whose entries have no order.
    """
    from safetensors.torch import save_file

    own = {k: plain(v) for k, v in tensors.items()}
    sha256 = tensors_hash(own)
    header = {"version": FORMAT_VERSION, "sha256": sha256, **(facts or {})}
    if pairs := sorted(k for k, v in own.items() if v.is_complex()):
        header[_COMPLEX] = pairs
    metadata = {_FACTS: json.dumps(header, sort_keys=True)}
    with atomic_path(path) as temporary:
        save_file({k: as_real(v) for k, v in own.items()}, temporary, metadata=metadata)
    return sha256


def save_weights(path: Path, model: nn.Module, facts: Mapping[str, object] | None = None) -> str:
    """Write a model's weights and buffers, nothing else; return their SHA-256."""
    return save_tensors(path, stored_tensors(model), facts)


def ties(expected: Mapping[str, Tensor]) -> dict[str, tuple[str, ...]]:
    """For each tied key, the other keys of the same memory."""
    groups: dict[tuple[Any, ...], list[str]] = {}
    for name, tensor in expected.items():
        if tensor.numel() and tensor.layout == torch.strided:
            own = getattr(tensor, "own", tensor)  # of one that is spread over processes the block here
            groups.setdefault((own.data_ptr(), tensor.shape, tensor.stride()), []).append(name)
    return {n: tuple(o for o in names if o != n) for names in groups.values() if len(names) > 1 for n in names}


def own_format(metadata: Mapping[str, str], tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors of a file, compared with the SHA-256 in its header if this program wrote it.

    Returns:
        What was saved: pairs that stand for complex numbers are complex again. Files of others are taken as they are.

    Raises:
        DataError: If the content changed, or the format is newer.
    """
    if _FACTS not in metadata:
        return dict(tensors)
    try:
        facts = json.loads(metadata[_FACTS])
        version, sha256 = facts["version"], facts["sha256"]
        # A mapped file promises multiples of 8 bytes only; complex128 is read in units of 16.
        pairs = {k: torch.view_as_complex(tensors[k].clone()) for k in facts.get(_COMPLEX, ())}
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise DataError("its header is damaged", str(path), "copy it again") from error
    if version != FORMAT_VERSION:
        raise DataError(
            f"the file has format version {version!r}, this program knows {FORMAT_VERSION}",
            str(path),
            "update landscape",
        )
    found = {**tensors, **pairs}
    if sha256 != tensors_hash(found):
        raise DataError("SHA-256 mismatch: the tensors are not those that were saved", str(path), "copy it again")
    return found
