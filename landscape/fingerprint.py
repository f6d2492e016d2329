"""What a network or a loss computes, as one SHA-256: its code, its structure and every value it holds but weights.

Two objects with equal fingerprints and equal weights compute the same function. The other direction does not hold: a
changed comment changes the file and so the fingerprint, which costs a computation and never a wrong answer.

Looked at are classes and functions (the user's by the content of their files and by their code, libraries' by name
and version), what functions close over, partial arguments, hooks, every attribute of every module, and what the repr
of the module tree says. Values that are only where something lies (addresses, locks, open files) are left out.
"""

from __future__ import annotations

import functools
import hashlib
import re
import sys
import types
import weakref
from argparse import Namespace
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import is_dataclass
from enum import Enum
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .code_files import is_library, sources, version

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size, PurePath, range)
_VALUES = (Tensor, np.ndarray, tuple, list, dict)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
# Of a module, what its structure or the weights' hash says already, or what changes no number.
_SKIPPED = frozenset(
    {*_HOOKS, "_parameters", "_buffers", "_modules", "training", "_version", "_compiled_call_impl"}
    | {f"_forward_{k}" for k in ("hooks_with_kwargs", "hooks_always_called", "pre_hooks_with_kwargs")}
    | {f"_{k}_hooks" for k in ("state_dict", "state_dict_pre", "load_state_dict_pre", "load_state_dict_post")}
    | {"_load_state_dict_post_hooks", "_load_state_dict_pre_hooks", "_state_dict_pre_hooks"}
    | {"_is_full_backward_hook", "_is_hf_initialized"}
)
_CALLS = (types.FunctionType, types.MethodType, functools.partial)
_DEPTH = 40


def fingerprint(value: Any) -> str:
    """SHA-256 (hexadecimal) of what a network, a loss or a function computes, apart from the weights of modules."""
    return _Reader(value).digest(value).hex()


def state_fingerprint(model: nn.Module) -> dict[str, str]:
    """By module name, a fingerprint of its buffers and attributes: what a forward pass may change."""
    reader = _Reader(model)
    return {name: reader.state(module).hex() for name, module in model.named_modules()}


class _Reader:
    """One reading; what was read is kept, so that nothing is read twice and no address is used twice."""

    def __init__(self, value: Any = None) -> None:
        self._done: dict[int, bytes] = {}
        self._kept: list[Any] = []
        self._open: dict[int, int] = {}
        # Weights are known by their names, also where an attribute holds them (as those of an LSTM do).
        for name, parameter in value.named_parameters() if isinstance(value, nn.Module) else ():
            self._done[id(parameter)] = _hash("weight", name)

    def digest(self, value: Any) -> bytes:
        """SHA-256 of one value."""
        if isinstance(value, _PLAIN) and not isinstance(value, Enum):
            return _hash(type(value).__name__, repr(value))
        if id(value) in self._done:
            return self._done[id(value)]
        if id(value) in self._open:  # a cycle: known by how far back it began
            return _hash("cycle", str(len(self._open) - self._open[id(value)]))
        if len(self._open) > _DEPTH:
            return _hash("deep", type(value).__name__)
        self._open[id(value)] = len(self._open)
        try:
            found = self._read(value)
        finally:
            del self._open[id(value)]
        self._done[id(value)] = found
        self._kept.append(value)
        return found

    def _read(self, value: Any) -> bytes:  # noqa: PLR0912 - a table of types
        if isinstance(value, Enum):
            return _hash("enum", type(value).__qualname__, value.name)
        if isinstance(value, Tensor):
            return _hash("tensor", *_tensor(value))
        if isinstance(value, np.ndarray):
            return self._all("array", value.tolist()) if value.dtype == object else _hash("array", *_array(value))
        if isinstance(value, nn.Module):
            return self._module(value)
        if isinstance(value, functools.partial):
            return self._all("partial", [value.func, value.args, value.keywords])
        if isinstance(value, types.MethodType):
            return self._all("method", [value.__func__, value.__self__])
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, types.ModuleType):
            return self._sources(value)
        if isinstance(value, Mapping):
            return self._all("mapping", [part for item in value.items() for part in item])
        if isinstance(value, (list, tuple, deque)):
            return self._all(type(value).__name__, value)
        if isinstance(value, (set, frozenset)):
            return _hash("set", *sorted(self.digest(v) for v in value))
        if isinstance(value, types.CodeType):
            return self._code(value)
        if isinstance(value, weakref.ref):
            return _hash("reference")
        if callable(value) and hasattr(value, "__qualname__"):  # built in
            return _hash("builtin", str(getattr(value, "__module__", "")), value.__qualname__)
        return self._object(value)

    def _all(self, name: str, values: Iterable[Any]) -> bytes:
        return _hash(name, *(self.digest(v) for v in values))

    def _module(self, module: nn.Module) -> bytes:
        """Class, parameters' shapes, buffers, hooks, attributes, and the modules inside."""
        parts: list[Any] = [self._class(type(module)), _said(module)]
        parts += [
            f"{n} {None if p is None else (tuple(p.shape), p.requires_grad)}" for n, p in _own(module._parameters)
        ]
        # The weights' hash has the values of the others.
        lasting = module._non_persistent_buffers_set
        parts += [f"{n} {b is None}" for n, b in _own(module._buffers) if n not in lasting]
        parts += [self.digest(b) for n, b in _own(module._buffers) if n in lasting]
        parts += [self.digest(list(getattr(module, name).values())) for name in _HOOKS]
        for name, value in _own(vars(module)):
            if name not in _SKIPPED:
                parts += [name, self.digest(value)]
        for name, child in module._modules.items():
            parts += [name, self.digest(child)]
        return _hash("module", *parts)

    def state(self, module: nn.Module) -> bytes:
        """Buffers and attributes of one module, without the modules inside and what functions close over."""
        parts: list[Any] = []
        for name, buffer in _own(module._buffers):
            parts += [name, self.digest(buffer)]
        for name, value in _own(vars(module)):
            if name not in _SKIPPED and not isinstance(value, _CALLS):
                parts += [name, self.digest(value)]
        return _hash("state", *parts)

    def _class(self, kind: type) -> bytes:
        if id(kind) in self._done:
            return self._done[id(kind)]
        parts: list[Any] = []
        self._done[id(kind)] = _hash("class", _home(kind), kind.__qualname__)  # methods may name their class
        self._kept.append(kind)
        for base in kind.__mro__:
            if base is object:
                continue
            home = sys.modules.get(base.__module__)
            parts += [_home(base), base.__qualname__]
            if is_library(home):
                parts.append(version(base.__module__.partition(".")[0]))
                # A method that was put there by somebody else.
                foreign = [
                    f
                    for f in vars(base).values()
                    if isinstance(f, types.FunctionType) and not is_library(sys.modules.get(f.__module__))
                ]
                parts += [self.digest(f) for f in foreign]
            else:
                parts += [self._sources(home), *(self.digest(v) for v in _members(base))]
        self._done[id(kind)] = found = _hash("class", *parts)
        return found

    def _function(self, function: types.FunctionType) -> bytes:
        home = sys.modules.get(function.__module__ or "")
        held = [function.__defaults__, function.__kwdefaults__, *_cells(function)]
        if home is not None and is_library(home) and "<lambda>" not in function.__qualname__:
            top = function.__module__.partition(".")[0]
            name = [function.__module__, function.__qualname__, version(top)]
            return _hash("function", *name, *(self.digest(v) for v in held))
        used = function.__globals__
        names = [n for n in _names(function.__code__) if n in used]
        around = [used[n] for n in names if _is_value(used[n])]
        return self._all("function", [function.__code__, *held, *around, home])

    def _code(self, code: types.CodeType) -> bytes:
        return _hash("code", code.co_code, " ".join(code.co_names), *(self.digest(c) for c in code.co_consts))

    def _sources(self, module: types.ModuleType | None) -> bytes:
        if module is not None and is_library(module):
            return _hash("library", module.__name__, version(module.__name__.partition(".")[0]))
        files, libraries = sources(module)
        return _hash("files", repr(files), repr(libraries))

    def _object(self, value: Any) -> bytes:
        inside = {**getattr(value, "__dict__", {})}
        for base in type(value).__mro__:
            slots = vars(base).get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                    inside[name] = getattr(value, name)
        if inside or "__repr__" not in {k for c in type(value).__mro__[:-1] for k in vars(c)}:
            return _hash("object", self._class(type(value)), self.digest(inside))
        return _hash("object", self._class(type(value)), _ADDRESS.sub("", repr(value)[:10_000]))


def _home(kind: type) -> str:
    """The module of a class; a plug-in's is called after its place, which computes nothing."""
    return "" if kind.__module__.startswith("landscape_plugin_") else kind.__module__


def _is_value(value: Any) -> bool:
    """Whether a global of the user's is a setting or code, and not an object at work, like a data set or a log."""
    settings = is_dataclass(value) or isinstance(value, (types.SimpleNamespace, Namespace))
    return settings or isinstance(value, (*_PLAIN, *_VALUES, types.FunctionType, type))


def _hash(*parts: str | bytes) -> bytes:
    total = hashlib.sha256()
    for part in parts:
        content = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        total.update(len(content).to_bytes(8, "little") + content)
    return total.digest()


def _own(members: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return sorted(members.items())


def _members(kind: type) -> list[Any]:
    """What a class of the user's defines: functions, and plain values."""
    found: list[Any] = []
    for name, value in sorted(vars(kind).items()):
        if isinstance(value, (staticmethod, classmethod)):
            found += [name, value.__func__]
        elif isinstance(value, property):
            found += [name, value.fget]
        elif isinstance(value, (types.FunctionType, *_PLAIN, *_VALUES)) and name not in _PRIVATE:
            found += [name, value]
    return found


_PRIVATE = ("__module__", "__doc__", "__dict__", "__weakref__", "__annotations__", "__firstlineno__")


def _cells(function: types.FunctionType) -> list[Any]:
    found = []
    for cell in function.__closure__ or ():
        try:
            found.append(cell.cell_contents)
        except ValueError:  # not filled yet
            found.append(None)
    return found


def _names(code: types.CodeType) -> list[str]:
    inner = [c for c in code.co_consts if isinstance(c, types.CodeType)]
    return sorted({*code.co_names, *(n for c in inner for n in _names(c))})


def _said(module: nn.Module) -> str:
    """What a module says of its hyper-parameters."""
    try:
        return _ADDRESS.sub("", module.extra_repr())
    except Exception:  # a module that cannot show itself still computes
        return ""


def _tensor(tensor: Tensor) -> tuple[str | bytes, ...]:
    kind = f"{tensor.dtype} {tuple(tensor.shape)} {tensor.layout}"
    if tensor.device.type == "meta" or tensor.layout != torch.strided or tensor.is_quantized or not tensor.numel():
        return (kind,)
    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().flatten().view(torch.uint8)
    return kind, hashlib.sha256(plain.numpy().tobytes()).digest()


def _array(array: np.ndarray[Any, Any]) -> tuple[str | bytes, ...]:
    return f"{array.dtype} {array.shape}", hashlib.sha256(np.ascontiguousarray(array).tobytes()).digest()
