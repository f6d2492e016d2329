"""The pickle inside a checkpoint, read as a description: what it would construct becomes a name, never an object.

A pickle is a program for a small stack machine, and some of its operations are dangerous: one imports what a name
says, others call what was imported. This machine imports nothing and calls nothing of the file's choosing. It has
numbers, text, lists, tuples, dictionaries and tensors; every other class or function is a `Placeholder` that knows
its name, and whatever the file does to a placeholder gives a placeholder or is left undone. Nothing here looks a name
up anywhere but in the constants below.
"""

from __future__ import annotations

import io
import math
import pickletools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import torch
from torch import Tensor

_MOST_OPERATIONS = 30_000_000  # a minute; half a million tensors have half of it
_MOST_DIMENSIONS = 64

# Element types of storages by the class that names them, and those that a tensor names itself.
_STORAGES: dict[str, torch.dtype] = {
    f"torch.{name}Storage": dtype
    for name, dtype in {
        "Double": torch.float64,
        "Float": torch.float32,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Long": torch.int64,
        "Int": torch.int32,
        "Short": torch.int16,
        "Char": torch.int8,
        "Byte": torch.uint8,
        "Bool": torch.bool,
        "ComplexFloat": torch.complex64,
        "ComplexDouble": torch.complex128,
    }.items()
} | {"torch.storage.UntypedStorage": torch.uint8}
DTYPES = {str(value): value for value in vars(torch).values() if isinstance(value, torch.dtype)}

_DICTIONARIES = frozenset({"collections.OrderedDict", "collections.defaultdict", "collections.Counter"})
_FACTORIES = frozenset(f"builtins.{name}" for name in ("list", "dict", "set", "int", "long", "float", "str", "bool"))
_SEQUENCES = frozenset({"torch.Size", "builtins.set", "builtins.frozenset"})
# What torch and plain data need to be written down; nobody misses it.
_PLAIN = frozenset(
    {
        *_STORAGES,
        *DTYPES,
        *_DICTIONARIES,
        *_FACTORIES,
        *_SEQUENCES,
        "_codecs.encode",
        "builtins.bytearray",
        "builtins.complex",
    }
    | {"copyreg._reconstructor", "copyreg.__newobj__", "builtins.object"}
    | {"torch.device", "torch.Tensor", "torch.nn.parameter.Parameter", "torch._tensor._rebuild_from_type_v2"}
    | {f"torch._utils._rebuild_{kind}" for kind in ("parameter", "parameter_with_state", "tensor", "tensor_v2")}
    | {
        f"torch._utils._rebuild_{kind}"
        for kind in ("tensor_v3", "qtensor", "sparse_tensor", "meta_tensor_no_storage")
    }
    | {"torch.serialization._get_layout", "torch.per_tensor_affine", "torch.per_channel_affine"}
)


class Malformed(ValueError):
    """The pickle is no program for this machine."""


@dataclass(frozen=True, slots=True, eq=False)
class Placeholder:
    """What stands where the file has an object that is not constructed."""

    name: str


@dataclass(frozen=True, slots=True, eq=False)
class Record(Placeholder):
    """What stands for an object whose class the reader asked for: not constructed either, but its states are kept."""

    states: list[Any] = field(default_factory=list)


@dataclass(frozen=True, slots=True, eq=False)
class _Name(Placeholder):
    """A class or function by name, before anything is done with it."""


@dataclass(frozen=True, slots=True, eq=False)
class _Storage:
    key: str
    dtype: torch.dtype
    numel: int


# From the key of a storage, a type and a number of elements to that many elements, flat.
Elements = Callable[[str, torch.dtype, int], Tensor]


@dataclass(frozen=True)
class Description:
    """What a pickle holds.

    Attributes:
        content: Plain values, tensors and `Placeholder`. Sets are lists here, and entries of dictionaries under
            anything but text, bytes, numbers, None and records are left out.
        replaced: Names of the classes and functions that placeholders stand for, sorted.
        plain: Whether there is nothing in it that torch's own reader of plain weights would not expect.
        storages: Elements of every storage that it names and bytes of one, by key.
    """

    content: Any
    replaced: tuple[str, ...]
    plain: bool
    storages: dict[str, tuple[int, int]]


def read_inertly(data: bytes | BinaryIO, elements: Elements, *, records: frozenset[str] = frozenset()) -> Description:
    """Read a pickle of any protocol without constructing what it names.

    Args:
        data: The pickle, or a file that stands at its beginning, and at its end afterwards.
        elements: Gives the storages that its tensors lie in.
        records: Classes whose objects become `Record`, by name.

    Raises:
        Malformed: If it is no pickle, is cut off, has too many operations, or a tensor does not fit its storage.

    Example:
        >>> import pickle, pathlib
        >>> found = read_inertly(pickle.dumps({"lr": 0.1, "root": pathlib.PurePosixPath("/")}), elements=None)
        >>> found.content
        {'lr': 0.1, 'root': Placeholder(name='pathlib.PurePosixPath')}
    """
    machine = _Machine(elements, records)
    try:
        for count, (opcode, argument, _) in enumerate(
            pickletools.genops(io.BytesIO(data) if isinstance(data, bytes) else data)
        ):
            if count > _MOST_OPERATIONS:
                raise Malformed(f"it has more than {_MOST_OPERATIONS:,} operations")
            machine.step(opcode.name, argument)
        plain = not machine.replaced and not machine.beyond and machine.operations <= _OPERATIONS_OF_TORCH
        return Description(machine.stack[-1], tuple(sorted(machine.replaced)), plain, machine.storages)
    except Malformed:
        raise
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, EOFError) as error:
        raise Malformed(f"its pickle is damaged ({type(error).__name__})") from error


@dataclass
class _Machine:
    elements: Elements
    records: frozenset[str]
    stack: list[Any] = field(default_factory=list)
    below: list[list[Any]] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    replaced: set[str] = field(default_factory=set)
    operations: set[str] = field(default_factory=set)
    storages: dict[str, tuple[int, int]] = field(default_factory=dict)
    beyond: bool = False

    def step(self, opcode: str, argument: Any) -> None:
        """Do one operation; those that only announce something do nothing."""
        self.operations.add(opcode)
        known = _STEPS.get(opcode)
        if known is None:
            raise Malformed(f"its pickle has an operation {opcode} that is not known here")
        known(self, argument)

    def _push(self, value: Any) -> None:
        self.stack.append(value)

    def _get(self, index: Any) -> None:
        self.stack.append(self.memo[int(index)])

    def _put(self, index: Any) -> None:
        self.memo[int(index)] = self.stack[-1]

    def _memoize(self) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def _mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def _marked(self) -> list[object]:
        items, self.stack = self.stack, self.below.pop()
        return items

    # -- the stack ------------------------------------------------------------------------------------------------

    def _pop(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self._marked()

    def _pop_mark(self) -> None:
        self._marked()

    def _dup(self) -> None:
        self.stack.append(self.stack[-1])

    # -- containers -----------------------------------------------------------------------------------------------

    def _tuple(self) -> None:
        items = tuple(self._marked())
        self.stack.append(items)

    def _tuple1(self) -> None:
        self.stack[-1:] = [self._last(1)]

    def _tuple2(self) -> None:
        self.stack[-2:] = [self._last(2)]

    def _tuple3(self) -> None:
        self.stack[-3:] = [self._last(3)]

    def _last(self, count: int) -> tuple[object, ...]:
        if len(self.stack) < count:
            raise Malformed("its pickle takes more than there is")
        return tuple(self.stack[-count:])

    def _list(self) -> None:
        items = self._marked()
        self.stack.append(items)

    def _frozenset(self) -> None:
        self._list()

    def _dict(self) -> None:
        items = self._marked()
        self.stack.append({})
        self._set(items)

    def _append(self) -> None:
        item = self.stack.pop()
        self._extend([item])

    def _appends(self) -> None:
        self._extend(self._marked())

    def _additems(self) -> None:
        self._extend(self._marked())

    def _extend(self, items: list[Any]) -> None:
        whole = self.stack[-1]
        if isinstance(whole, list):
            whole.extend(items)
        elif not isinstance(whole, Placeholder):
            raise Malformed("its pickle appends to what is no list")

    def _setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def _setitems(self) -> None:
        self._set(self._marked())

    def _set(self, items: list[Any]) -> None:
        whole = self.stack[-1]
        if isinstance(whole, dict):
            for key, value in zip(items[::2], items[1::2], strict=True):
                # Hashes of other kinds of keys can be made to collide, and take as deep a recursion as they nest.
                if isinstance(key, (str, bytes, float, type(None), Record)) or (
                    isinstance(key, int) and abs(key) < 2**63
                ):
                    whole[key] = value
                else:
                    self.beyond = True
        elif not isinstance(whole, Placeholder):
            raise Malformed("its pickle puts entries into what is no dictionary")

    # -- names, and what the file would do with them --------------------------------------------------------------

    def _global(self, both: str) -> None:
        module, _, name = both.partition(" ")
        self._named(module, name)

    def _stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise Malformed("its pickle names something by what is no text")
        self._named(module, name)

    def _named(self, module: str, name: str) -> None:
        full = f"{_NEW_MODULES.get(module, module)}.{name}"
        if full not in _PLAIN and full not in self.records:
            self.replaced.add(full)
        self.stack.append(_Name(full))

    def _ext1(self, code: int) -> None:
        self._named("copyreg", f"extension {code}")

    _ext2 = _ext4 = _ext1

    def _inst(self, both: str) -> None:
        arguments = tuple(self._marked())
        self._global(both)
        self.stack.append(self._called(self.stack.pop(), arguments))

    def _obj(self) -> None:
        function, *arguments = self._marked()
        self.stack.append(self._called(function, tuple(arguments)))

    def _reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.stack.append(self._called(function, arguments))

    _newobj = _reduce

    def _newobj_ex(self) -> None:
        self.stack.pop()
        self._newobj()

    def _build(self) -> None:
        """The state of an object is let go where it is no record: there is no object."""
        state = self.stack.pop()
        if isinstance(self.stack[-1], Record):
            self.stack[-1].states.append(state)
        elif not isinstance(self.stack[-1], (Placeholder, Tensor, dict)):
            raise Malformed("its pickle gives a state to what is no object")

    def _called(self, function: object, arguments: object) -> object:
        if not isinstance(function, Placeholder) or not isinstance(arguments, tuple):
            raise Malformed("its pickle calls what is no name")
        if not isinstance(function, _Name):  # a bound method, a partial: whatever it was made of
            return function
        name = function.name
        self.beyond |= not (name.startswith("torch._utils._rebuild") or name == "torch.Size") and bool(arguments)
        if name in self.records:
            return Record(name)
        if name in _DICTIONARIES:
            return {}
        if name in _SEQUENCES and len(arguments) == 1 and isinstance(arguments[0], (list, tuple)):
            return arguments[0]  # and no copy: a few bytes can ask for very many of them
        if name.startswith("copyreg.") and arguments and isinstance(arguments[0], _Name):
            return Placeholder(arguments[0].name)  # how old protocols say: an object of this class
        made = self._tensor(name, arguments)
        if made is None and not name.startswith("torch._utils._rebuild"):
            self.beyond = True
        return Placeholder(name) if made is None else made

    # -- tensors --------------------------------------------------------------------------------------------------

    def _binpersid(self) -> None:
        named = self.stack.pop()
        if isinstance(named, tuple) and len(named) == 4 and named[0] == "module" and isinstance(named[1], _Name):
            self.stack.append(named[1])  # a class with its source, as files of before 1.6 keep it
            return
        whole = isinstance(named, tuple) and len(named) in (5, 6) and named[0] == "storage"
        if not whole or (len(named) == 6 and named[5] is not None):
            raise Malformed("its pickle names something outside of it that is no storage")
        _, kind, key, _, numel = named[:5]
        if not (isinstance(kind, _Name) and isinstance(key, str) and isinstance(numel, int) and numel >= 0):
            raise Malformed("its pickle describes a storage in another way")
        known = _STORAGES.get(kind.name)
        if known is None:
            self.stack.append(Placeholder(kind.name))
            return
        self.storages.setdefault(key, (numel, known.itemsize))
        self.stack.append(_Storage(key, known, numel))

    def _tensor(self, name: str, arguments: tuple[Any, ...]) -> Tensor | None:
        """The tensor that a call of torch's would make; None if it is no plain one."""
        rebuild = name.removeprefix("torch._utils._rebuild_")
        if rebuild in ("parameter", "parameter_with_state") and arguments and isinstance(arguments[0], Tensor):
            return arguments[0]
        if name == "torch._tensor._rebuild_from_type_v2" and len(arguments) == 4:
            function, kind, inner, _ = arguments  # a tensor with attributes; a subclass may compute otherwise
            plain = isinstance(kind, _Name) and kind.name in ("torch.Tensor", "torch.nn.parameter.Parameter")
            if plain and isinstance(function, _Name) and isinstance(inner, tuple):
                return self._tensor(function.name, inner) if function.name != name else None
            return None
        least = {"tensor": 4, "tensor_v2": 6, "tensor_v3": 6}.get(rebuild)  # the first: of before 0.4
        if least is None or name == rebuild or len(arguments) < least:
            return None
        storage, offset, size, stride, *more = arguments
        more = more[2:]
        if not isinstance(storage, _Storage):
            return None
        dtype = storage.dtype
        if rebuild == "tensor_v3":
            named = more.pop(0) if more else None
            if not isinstance(named, _Name) or named.name not in DTYPES:
                return None
            dtype = DTYPES[named.name]
        if any(more):  # conjugated or negated in name only
            return None
        count = storage.numel * storage.dtype.itemsize // dtype.itemsize
        _require_inside(offset, size, stride, count)
        return self.elements(storage.key, dtype, count).as_strided(size, stride, offset)


def _require_inside(offset: Any, size: Any, stride: Any, count: int) -> None:
    both: Sequence[Any] = (size, stride)
    if not all(isinstance(s, tuple) and len(s) <= _MOST_DIMENSIONS for s in both) or len(size) != len(stride):
        raise Malformed("a tensor has no shape")
    if not all(type(n) is int and 0 <= n < 2**62 for n in (offset, *size, *stride)) or math.prod(size) >= 2**62:
        raise Malformed("a tensor has an impossible shape")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if (last >= count) if math.prod(size) else (offset > count):
        raise Malformed("a tensor reaches beyond its storage")


# Those of protocol 2, which torch.save writes; torch's reader of plain weights knows no others.
_OPERATIONS_OF_TORCH = frozenset(
    {"PROTO", "STOP", "MARK", "GLOBAL", "NEWOBJ", "REDUCE", "BUILD", "APPEND", "APPENDS", "SETITEM", "SETITEMS"}
    | {
        "TUPLE",
        "TUPLE1",
        "TUPLE2",
        "TUPLE3",
        "NONE",
        "NEWTRUE",
        "NEWFALSE",
        "EMPTY_TUPLE",
        "EMPTY_LIST",
        "EMPTY_DICT",
    }
    | {"EMPTY_SET", "BININT", "BININT1", "BININT2", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING", "BINPERSID"}
    | {"BINGET", "LONG_BINGET", "BINPUT", "LONG_BINPUT", "LONG1"}
)
_NEW_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}


_Step = Callable[[_Machine, Any], None]


def _steps() -> Iterator[tuple[str, _Step]]:
    """What each operation does, given its argument."""
    for name, fresh in (("NONE", lambda: None), ("NEWTRUE", lambda: True), ("NEWFALSE", lambda: False)):
        yield name, _pushing(fresh)
    for name, kind in (("EMPTY_LIST", list), ("EMPTY_SET", list), ("EMPTY_DICT", dict), ("EMPTY_TUPLE", tuple)):
        yield name, _pushing(kind)
    for name in ("PROTO", "FRAME", "STOP"):
        yield name, lambda *_: None
    for opcode in pickletools.opcodes:
        name = opcode.name
        if name in _ARGUMENTS:
            yield name, _Machine._push
        elif name.endswith(("GET", "PUT")):
            yield name, _Machine._get if name.endswith("GET") else _Machine._put
        elif (does := vars(_Machine).get(f"_{name.lower()}")) is not None:
            yield name, does if opcode.arg is not None else _without_argument(does)


def _pushing(fresh: Callable[[], Any]) -> _Step:
    return lambda machine, _: machine.stack.append(fresh())


def _without_argument(does: Callable[[_Machine], None]) -> _Step:
    return lambda machine, _: does(machine)


_ARGUMENTS = frozenset(
    {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING"}
    | {"SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES"}
    | {"BINBYTES8", "BYTEARRAY8"}
)
_STEPS = dict(_steps())
