"""What a network or a loss computes, as one SHA-256: its code, its structure and every value it holds but weights.

Two objects with equal fingerprints and equal weights compute the same function. The other direction does not hold: a
changed comment changes the file and so the fingerprint, which costs a computation and never a wrong answer.

Looked at are classes and functions (the user's by the content of their files and by their code, libraries' by name
and version), what functions close over, partial arguments, hooks, every attribute of every module, and what the repr
of the module tree says. Values that are only where something lies (addresses, locks, open files) are left out.
"""

from __future__ import annotations

import array
import dis
import functools
import hashlib
import io
import logging
import os
import re
import sys
import threading
import types
import weakref
from argparse import Namespace
from collections import deque
from collections.abc import Iterable, Mapping, Set
from dataclasses import is_dataclass
from enum import Enum
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .._deprecated import former
from ..base.code_files import is_library, sources, version
from ..base.files import parts_hash
from ..numerics.layouts import is_plain, plain_parts
from ..sharding.assembly import OWN_ATTRIBUTES, is_own_hook, plain_kind, whole_shape

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
    | {"_is_full_backward_hook", "_is_hf_initialized", *OWN_ATTRIBUTES}
)
_CALLS = (types.FunctionType, types.MethodType, functools.partial)
_DEPTH = 40


def fingerprint(value: object, weights_of: nn.Module | None = None) -> str:
    """SHA-256 (hexadecimal) of what a network, a loss or a function computes, apart from the network's weights.

    Args:
        value: The network, loss or function.
        weights_of: Whose parameters and buffers are left out, since the hash of the weights has them: the network's
            own by default. Those of any other module count: class weights of a loss, a teacher in a list.
    """
    reader = _Reader(value if weights_of is None else weights_of)
    return reader.whole(value).hex()


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
        self._deep: list[Any] = []
        named = isinstance(value, nn.Module)
        # Weights are known by their names, also where an attribute holds them (as those of an LSTM do).
        for name, parameter in value.named_parameters() if named else ():
            self._done[id(parameter)] = parts_hash("weight", name)
        lasting = {id(m): m for m in value.modules()} if named else {}
        self._hashed = {  # the weights' hash has the values of these
            id(b) for m in lasting.values() for n, b in m._buffers.items() if n not in m._non_persistent_buffers_set
        }

    def whole(self, value: object) -> bytes:
        """SHA-256 of a value and of everything in it, however deep it lies."""
        found = [self.digest(value)]
        while self._deep:
            found.append(self.digest(self._deep.pop(0)))
        return found[0] if len(found) == 1 else parts_hash("parts", *found)

    def digest(self, value: object) -> bytes:
        """SHA-256 of one value."""
        if isinstance(value, _PLAIN) and not isinstance(value, Enum):
            return parts_hash(type(value).__name__, repr(value))
        if id(value) in self._done:
            return self._done[id(value)]
        if id(value) in self._open:  # a cycle: known by how far back it began
            return parts_hash("cycle", str(len(self._open) - self._open[id(value)]))
        if len(self._open) > _DEPTH:
            self._deep.append(value)  # read when the way back is short again
            return parts_hash("deep", type(value).__name__)
        self._open[id(value)] = len(self._open)
        try:
            found = self._read(value)
        finally:
            del self._open[id(value)]
        self._done[id(value)] = found
        self._kept.append(value)
        return found

    def _read(self, value: object) -> bytes:  # noqa: PLR0912 - a table of types
        if isinstance(value, Enum):
            return parts_hash("enum", type(value).__qualname__, value.name)
        if isinstance(value, Tensor):
            return parts_hash("tensor", *_tensor(value))
        if isinstance(value, np.ndarray):
            if value.dtype == object:
                return self._all("array", value.tolist())
            return parts_hash("array", *_array(value))
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
        if value is os.environ:  # what is read of it is looked at where it is read
            return parts_hash("environment")
        if isinstance(value, Mapping):
            return self._all("mapping", [*(part for item in value.items() for part in item), *_more(value)])
        if isinstance(value, (list, tuple, deque)):
            return self._all(type(value).__name__, [*value, *_more(value)])
        if isinstance(value, (bytearray, memoryview, array.array)):
            return parts_hash(type(value).__name__, getattr(value, "typecode", ""), bytes(value))
        if isinstance(value, (set, frozenset)):
            return parts_hash("set", *sorted(self.digest(v) for v in value))
        if isinstance(value, types.CodeType):
            return self._code(value)
        if isinstance(value, (weakref.ref, *_IDLE)):
            return parts_hash("reference", type(value).__qualname__)
        if callable(value) and hasattr(value, "__qualname__"):  # built in
            held = [getattr(value, "__wrapped__", None), getattr(value, "__self__", None)]  # of a cache, of a method
            held = [h for h in held if h is not None and not isinstance(h, (type, types.ModuleType))]
            name = [former(str(getattr(value, "__module__", ""))), value.__qualname__]
            return parts_hash("builtin", *name, *(self.digest(h) for h in held))
        return self._object(value)

    def _all(self, name: str, values: Iterable[object]) -> bytes:
        return parts_hash(name, *(self.digest(v) for v in values))

    def _module(self, module: nn.Module) -> bytes:
        """Class, parameters' shapes, buffers, hooks, attributes, and the modules inside."""
        parts: list[Any] = [self._class(plain_kind(type(module))), _said(module)]
        for name, parameter in _own(module._parameters):
            said = None if parameter is None else (whole_shape(module, name, parameter), parameter.requires_grad)
            parts += [f"{name} {said}", self.digest(parameter)]
        for name, buffer in _own(module._buffers):
            parts += [name, "" if id(buffer) in self._hashed else self.digest(buffer)]
        if isinstance(module, torch.jit.ScriptModule):
            parts += self._scripted(module)
        hooks = ([h for h in getattr(module, name).values() if not is_own_hook(h)] for name in _HOOKS)
        parts += [self.digest(some) for some in hooks]
        for name, value in _own(vars(module)):
            if name not in _SKIPPED and not _is_made_of_weights(module, name):
                parts += [name, self.digest(value)]
        for name, child in module._modules.items():
            parts += [name, self.digest(child)]
        return parts_hash("module", *parts)

    def _scripted(self, module: torch.jit.ScriptModule) -> list[str | bytes]:
        """The code of a scripted module, and the constants in it."""
        if not hasattr(module, "forward"):
            return []
        code, constants = module.code_with_constants
        return [code, self.digest(constants.const_mapping)]

    def state(self, module: nn.Module) -> bytes:
        """Buffers and attributes of one module, without the modules inside and what functions close over."""
        parts: list[Any] = []
        for name, buffer in _own(module._buffers):
            parts += [name, self.digest(buffer)]
        for name, value in _own(vars(module)):
            if name not in _SKIPPED and not isinstance(value, _CALLS):
                parts += [name, self.digest(value)]
        return parts_hash("state", *parts)

    def _class(self, kind: type) -> bytes:
        if id(kind) in self._done:
            return self._done[id(kind)]
        parts: list[Any] = []
        self._done[id(kind)] = parts_hash("class", _home(kind), kind.__qualname__)  # methods may name their class
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
                if not is_library(sys.modules.get(type(base).__module__)):
                    parts.append(self.digest(type(base)))
        self._done[id(kind)] = found = parts_hash("class", *parts)
        return found

    def _function(self, function: types.FunctionType) -> bytes:
        # Not its __module__, which functools.wraps takes from what is wrapped.
        home = sys.modules.get(str(function.__globals__.get("__name__")))
        held = [function.__defaults__, function.__kwdefaults__, *_cells(function), vars(function)]
        if home is not None and is_library(home) and "<lambda>" not in function.__qualname__:
            top = home.__name__.partition(".")[0]
            name = [former(home.__name__), function.__qualname__, version(top)]
            return parts_hash("function", *name, *(self.digest(v) for v in held))
        used = function.__globals__
        names = _names(function.__code__)
        found = [used[n] for n in _globals(function.__code__) if n in used]
        around = [*filter(_is_value, found), *_of_modules(found, names)]
        if {"environ", "getenv"} & {*names}:
            around += [os.environ.get(text) for text in _texts(function.__code__)]
        return self._all("function", [function.__code__, *held, *around, home])

    def _code(self, code: types.CodeType) -> bytes:
        return parts_hash("code", code.co_code, " ".join(code.co_names), *(self.digest(c) for c in code.co_consts))

    def _sources(self, module: types.ModuleType | None) -> bytes:
        if module is not None and is_library(module):
            return parts_hash("library", former(module.__name__), version(module.__name__.partition(".")[0]))
        files, libraries = sources(module)
        return parts_hash("files", repr(files), repr(libraries))

    def _object(self, value: object) -> bytes:
        inside = {**getattr(value, "__dict__", {})}
        for base in type(value).__mro__:
            slots = vars(base).get("__slots__", ())
            for slot in (slots,) if isinstance(slots, str) else slots:
                private = slot.startswith("__") and not slot.endswith("__")
                name = f"_{base.__name__.lstrip('_')}{slot}" if private else slot
                if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                    inside[name] = getattr(value, name)
        if inside or "__repr__" not in {k for c in type(value).__mro__[:-1] for k in vars(c)}:
            return parts_hash("object", self._class(type(value)), self.digest(inside))
        return parts_hash("object", self._class(type(value)), _ADDRESS.sub("", repr(value)))


def _home(kind: type) -> str:
    """The module of a class; a plug-in's is called after its place, which computes nothing."""
    return "" if kind.__module__.startswith("landscape_plugin_") else former(kind.__module__)


def _is_value(value: object) -> bool:
    """Whether a global of the user's is a setting or code, and not an object at work, like a data set or a log."""
    if isinstance(value, _AT_WORK) or value is os.environ:
        return False
    if isinstance(value, (*_PLAIN, *_VALUES, *_CODE)) or is_dataclass(value):
        return True
    return not is_library(sys.modules.get(type(value).__module__))  # an object of the user's own class


# What computes no number, and what it holds changes from one moment to the next.
_IDLE = (logging.Logger, logging.Handler, logging.LoggerAdapter, io.IOBase, threading.Thread)
_AT_WORK = (types.ModuleType, *_IDLE, torch.utils.data.Dataset, torch.utils.data.DataLoader)
_CODE = (
    *(types.FunctionType, types.BuiltinFunctionType, types.MethodType, type, nn.Module, np.ufunc, np.generic),
    *(functools.partial, functools.partialmethod, functools.cached_property, functools._lru_cache_wrapper),
    *(types.SimpleNamespace, Namespace, Mapping, Set, array.array, bytearray, Enum),
)


def _more(value: object) -> list[object]:
    """The attributes of a container of a class that has some."""
    inside = getattr(value, "__dict__", None)
    return [dict(inside)] if inside and inside is not value else []


def _is_made_of_weights(module: nn.Module, name: str) -> bool:
    """Whether each forward makes an attribute anew of a parameter, as pruning and the older weight norm do."""
    made_of = (f"{name}_orig", f"{name}_g")
    return isinstance(vars(module)[name], Tensor) and any(module._parameters.get(n) is not None for n in made_of)


def _of_modules(values: list[Any], names: list[str]) -> list[Any]:
    """The settings among ``names`` that are in the user's modules, as ``config.scale``; modules of modules, too."""
    found = []
    pending, seen = list(values), set()
    while pending:
        module = pending.pop(0)
        if isinstance(module, types.ModuleType) and not is_library(module) and id(module) not in seen:
            seen.add(id(module))
            inside = [vars(module)[n] for n in names if n in vars(module)]
            found += [v for v in inside if _is_value(v)]
            pending += inside
    return found


def _own(members: Mapping[str, object]) -> list[tuple[str, Any]]:
    return sorted(members.items())


def _members(kind: type) -> list[object]:
    """What a class of the user's defines: functions, and plain values."""
    found: list[Any] = []
    for name, value in sorted(vars(kind).items()):
        if isinstance(value, (staticmethod, classmethod)):
            found += [name, value.__func__]
        elif isinstance(value, property):
            found += [name, value.fget]
        elif name not in _PRIVATE and not isinstance(value, types.MemberDescriptorType) and _is_value(value):
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


def _globals(code: types.CodeType) -> list[str]:
    inner = [c for c in code.co_consts if isinstance(c, types.CodeType)]
    own = {i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return sorted({*own, *(n for c in inner for n in _globals(c))})


def _texts(code: types.CodeType) -> list[str]:
    inner = [c for c in code.co_consts if isinstance(c, types.CodeType)]
    return sorted({*(c for c in code.co_consts if isinstance(c, str)), *(t for c in inner for t in _texts(c))})


def _said(module: nn.Module) -> str:
    """What a module says of its hyper-parameters."""
    try:
        return _ADDRESS.sub("", module.extra_repr())
    except Exception:  # a module that cannot show itself still computes
        return ""


def _tensor(tensor: Tensor) -> tuple[str | bytes, ...]:
    kind = f"{tensor.dtype} {tuple(tensor.shape)} {tensor.layout}"
    if tensor.device.type == "meta" or not tensor.numel():
        return (kind,)
    if not is_plain(tensor):
        parts = [part for inner in plain_parts(tensor) for part in _tensor(inner)]
        return (kind, *parts)
    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().flatten().view(torch.uint8)
    return kind, hashlib.sha256(plain.numpy().tobytes()).digest()


def _array(array: np.ndarray[Any, Any]) -> tuple[str | bytes, ...]:
    return f"{array.dtype} {array.shape}", hashlib.sha256(np.ascontiguousarray(array).tobytes()).digest()
