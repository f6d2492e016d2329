"""Checkpoints of strangers, read safely.

Reading never executes anything (``weights_only=True``, always said), never takes the memory that a file merely
claims, and checks integrity first: torch itself loads a zip checkpoint with a flipped bit in silence.
"""

from __future__ import annotations

import os
import pickletools
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ..base.errors import DataError, LandscapeError, NumericalError, UsageError
from ..base.process_state import one_at_a_time
from ..numerics.tensors import continuous
from .checkpoint_folders import weight_files
from .weights import own_format, tensors_hash

_CONTAINERS = (
    "state_dict",
    "model_state_dict",
    "model_dict",
    "model",
    "network",
    "net",
    "weights",
    "last",
    "module",
)
_MAX_HEADER = 100 * 2**20


@dataclass(frozen=True)
class Weights:
    """Tensors read from a file, all on the CPU.

    Attributes:
        tensors: By the names that stand in the file.
        format: ``safetensors``, ``zip`` or ``pickle``.
        container: Keys under which the tensors were found (``"state_dict"``), or "".
        metadata: Text facts of a safetensors header.
    """

    tensors: dict[str, Tensor]
    format: str
    container: str
    metadata: dict[str, str]


# -- reading ----------------------------------------------------------------------------------------------------


def read_weights(path: Path) -> Weights:
    """Read the weights in a checkpoint file, or in a folder of Hugging Face or Lightning.

    Raises:
        UsageError: If there is no such file, or it is a folder without weights.
        DataError: If the file is empty, truncated, damaged, unsafe, or holds no weights.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    if not path.exists():
        raise UsageError("there is no such file", str(path), "check the path")
    try:
        head = _head(path)
        _refuse_impostors(path, head)
        if _is_safetensors(path, head):
            tensors, metadata = _read_safetensors(path)
            weights = Weights(tensors, "safetensors", "", metadata)
        else:
            kind = "zip" if zipfile.is_zipfile(path) or head.startswith(b"PK") else "pickle"
            content = _read_torch(path, kind)
            tensors, container = _find_tensors(content, path)
            weights = Weights(tensors, kind, container, {})
    except PermissionError as error:
        raise UsageError("the file may not be read", str(path), "check its permissions") from error
    for name, tensor in weights.tensors.items():
        _refuse_odd_tensor(name, tensor, path)
    return weights


def _read_folder(folder: Path) -> Weights:
    files = weight_files(folder)
    if not files:
        raise UsageError("this folder holds no run and no weights", str(folder), "name a checkpoint file or a run")
    tensors: dict[str, Tensor] = {}
    for file, names in files.items():
        weights = read_weights(file)
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


def _read_torch(path: Path, kind: str) -> Any:
    if kind == "zip":
        _check_zip(path)
        _refuse_code(path)
    else:
        _check_legacy_pickle(path)
    try:
        # weights_only is said here and not left to its default: an environment variable can turn the default
        # off, but not an explicit True.
        with one_at_a_time(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on pickle protocols; what matters becomes an error
            return torch.load(path, map_location="cpu", weights_only=True, mmap=kind == "zip")
    except Exception as error:
        if isinstance(error, LandscapeError):
            raise
        told = str(error)[:120]
        text = "" if not told or "weights_only" in str(error) or "Weights only" in str(error) else f": {told}"
        raise DataError(
            f"the checkpoint cannot be read as plain weights{text}",
            str(path),
            "it is truncated, damaged or no checkpoint; save the state_dict again where it was made",
        ) from error


def _check_zip(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            for record in records:
                if record.compress_type != zipfile.ZIP_STORED:
                    raise DataError(
                        f"record {record.filename!r} is compressed",
                        str(path),
                        "save it with torch.save, which stores plainly",
                    )
            total, size = sum(r.file_size for r in records), path.stat().st_size
            if total > size:
                raise DataError(
                    f"its records claim {total:,} bytes in a file of {size:,}", str(path), "do not use it"
                )
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, RuntimeError, NotImplementedError) as error:
        if isinstance(error, LandscapeError):
            raise
        raise DataError("the checkpoint is truncated or damaged", str(path), "copy or save it again") from error
    if damaged is not None:
        raise DataError(f"CRC mismatch in record {damaged!r}: its bytes changed", str(path), "copy or save it again")


def _check_legacy_pickle(path: Path) -> None:
    """Look through a pickle without running it, and refuse what the loader would only stumble over.

    A storage is named by a persistent id, a tuple ending in its number of elements; torch would allocate that
    many before reading them. Names of classes that are no plain weights are refused here with a message that
    says which; the loader's own allow-list remains the protection.

    Raises:
        DataError: If a storage claims more elements than the file has bytes, or objects are pickled.
    """
    size = path.stat().st_size
    for opcode, argument, previous in _pickle_operations(path):
        if opcode == "BINPERSID" and max((a for a in previous if isinstance(a, int)), default=size + 1) > size:
            raise DataError("a tensor claims more elements than the file has bytes", str(path), "do not use it")
        if opcode in ("GLOBAL", "STACK_GLOBAL"):
            words = str(argument).split() if opcode == "GLOBAL" else [a for a in previous if isinstance(a, str)][-2:]
            _refuse_foreign({".".join(words)}, path)


def _pickle_operations(path: Path) -> Iterator[tuple[str, Any, list[Any]]]:
    """Operations of the pickles in a legacy file, each with the constants since the last mark.

    The file holds a magic number, a protocol, facts on the system, the object and the storage keys; raw
    tensors follow. A file that ends or breaks earlier ends the iteration; the loader says how it is broken.
    """
    with open(path, "rb") as handle:
        for _ in range(5):
            constants: list[Any] = []
            rest: Any = _Rest(handle)
            operations = pickletools.genops(rest)
            while True:
                try:
                    opcode, argument, _ = next(operations)
                except StopIteration:
                    break
                except (ValueError, EOFError, IndexError, UnicodeDecodeError):
                    return
                if opcode.name == "MARK":
                    constants = []
                elif not opcode.name.startswith(("BINPUT", "LONG_BINPUT", "PROTO", "FRAME", "MEMOIZE")):
                    yield opcode.name, argument, constants
                    if isinstance(argument, (int, str)):
                        constants.append(argument)


class _Rest:
    """A file of which nobody asks for more bytes than it has, whatever length a string in it claims."""

    def __init__(self, handle: BinaryIO) -> None:
        self.handle, self.size = handle, os.fstat(handle.fileno()).st_size
        self.readline, self.tell = handle.readline, handle.tell

    def read(self, count: int) -> bytes:
        """At most ``count`` bytes; fewer at the end."""
        return self.handle.read(min(count, self.size))


def _refuse_code(path: Path) -> None:
    """Name the classes in a zip checkpoint that are no plain weights.

    Raises:
        DataError: If there are any.
    """
    try:
        unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # damaged in a way that the loader itself describes
        return
    _refuse_foreign(set(unsafe), path, known=())


def _refuse_foreign(
    names: set[str], path: Path, known: tuple[str, ...] = ("torch.", "collections.", "numpy.")
) -> None:
    foreign = sorted(n for n in names if not n.startswith(known) or n.startswith("torch.nn."))
    if foreign:
        raise DataError(
            f"it holds pickled objects ({', '.join(foreign[:5])}), which could run code",
            str(path),
            "where it was made, save model.state_dict() alone",
        )


def _find_tensors(content: Any, path: Path) -> tuple[dict[str, Tensor], str]:
    container: list[str] = []
    found = content
    while isinstance(found, Mapping):
        tensors = {str(k): v for k, v in found.items() if isinstance(v, Tensor)}
        inner = next((k for k in _CONTAINERS if isinstance(found.get(k), Mapping) and found[k]), None)
        if tensors and inner is None:
            return tensors, ".".join(container)
        if inner is None:
            break
        container.append(inner)
        found = found[inner]
    others = dict(_state_dicts(content))
    if len(others) == 1:
        name, tensors = next(iter(others.items()))
        return tensors, name
    if others:
        what = f"it holds {len(others)} networks: {', '.join(list(others)[:10])}"
        raise DataError(what, str(path), "save the state_dict of one of them alone")
    keys = ", ".join(map(str, list(content)[:10])) if isinstance(content, Mapping) else type(content).__name__
    raise DataError(f"no weights found in it; it holds: {keys}", str(path), "save the model's state_dict")


def _state_dicts(content: Any, place: str = "", depth: int = 3) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """What looks like a network's weights under names that nobody agreed on: tensors, some called weight or bias.

    The state of an optimizer holds tensors, too, but by numbers and other names.
    """
    if not isinstance(content, Mapping) or not depth:
        return
    tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
    if place and len(tensors) == len(content) and any(k.endswith(("weight", "bias")) for k in tensors):
        yield place, tensors
    for name, inner in content.items():
        yield from _state_dicts(inner, f"{place}.{name}" if place else str(name), depth - 1)


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


def facts_of(path: Path) -> dict[str, Any]:
    """What a checkpoint holds: format, tensors, elements, types, SHA-256.

    Raises:
        UsageError, DataError: As `read_weights`.
        NumericalError: If a tensor holds NaN or infinities.
    """
    weights = read_weights(path)
    for name, tensor in weights.tensors.items():
        if continuous(tensor):
            require_finite(name, tensor, str(path))
    return {
        "format": weights.format,
        "container": weights.container or None,
        "tensors": len(weights.tensors),
        "elements": sum(t.numel() for t in weights.tensors.values()),
        "types": ", ".join(sorted({str(t.dtype).removeprefix("torch.") for t in weights.tensors.values()})),
        "weights_hash": tensors_hash(weights.tensors),
        "shapes": {n: list(t.shape) for n, t in weights.tensors.items()},
    }
