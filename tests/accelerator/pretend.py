"""A pretend accelerator: tensors of a device of its own that live on the CPU and refuse to meet CPU tensors.

Torch lets a backend be written in Python under its PrivateUse1 key. Here each tensor of the device `pretend` wraps a
CPU tensor, every operation is the CPU's own kernel, and an operation between devices raises what CUDA would raise: so
the numbers must be the CPU's and a tensor at the wrong place is an error, without any device.

`DEVICE` says how it behaves: without float64 (as Apple's), with memory that runs out, and it counts what a real
device's queue would have to be waited for. Not like a real one: kernels do not run late, streams and pinned memory do
not exist, and its random numbers are the CPU's.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_map_only

from landscape.runtime.devices import has_float64

# Copies may cross; a number's worth of the CPU's (no dimensions) may meet anything; CUDA takes indices from the CPU.
CROSSES = {"copy_", "_to_copy", "_copy_from", "_copy_from_and_resize", "_foreach_copy_"}
INDEXES = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}
# The shape or value of the answer is on the device only.
READS = {
    "_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "unique_dim", "unique_consecutive",
    "unique_dim_consecutive", "is_nonzero", "item", "bincount", "repeat_interleave", "_linalg_check_errors",
}  # fmt: skip
# What threads of a device add up in another order each time.
SUMS = {"convolution", "convolution_backward", "mm", "addmm", "bmm", "sum", "mean", "dot", "index_add"}
DOUBLES = (torch.float64, torch.complex128)


@dataclass
class Device:
    """How the pretend device behaves, and what it has seen.

    Attributes:
        present: Whether torch is told of it at all.
        float64: Whether it has numbers of double precision.
        fails_at: The n-th allocation from now on fails, as memory that runs out; None: none.
        fails_above: An allocation of more bytes than this fails; None: none.
        vanishes_at: After so many operations from now on it answers no more; None: it stays.
        noise: Relative size of what sums of many terms differ by from call to call, as with kernels that add up in
            whatever order threads come.
        total: Bytes that it says it has.
        waits: What waited for it, by operation.
        operations: How many operations it was given.
        allocations: How many tensors Python's own thread made.
    """

    present: bool = False
    float64: bool = True
    fails_at: int | None = None
    fails_above: int | None = None
    vanishes_at: int | None = None
    noise: float = 0.0
    total: int = 2**33
    waits: Counter[str] = field(default_factory=Counter)
    operations: int = 0
    allocations: int = 0

    def take(self) -> None:
        """Take note of an operation.

        Raises:
            RuntimeError: If the device is gone.
        """
        self.operations += 1
        if self.vanishes_at is not None and _may_raise():
            self.vanishes_at -= 1
            if self.vanishes_at < 0:
                raise RuntimeError("pretend error: device lost")

    def allocate(self, made: Tensor) -> None:
        """Take note of a new tensor.

        Raises:
            TypeError: If it is of a type that the device does not have.
            torch.OutOfMemoryError: If this is the allocation that fails.
        """
        if made.dtype in DOUBLES and not self.float64:
            raise TypeError(f"Cannot convert a tensor to {made.dtype}: the pretend framework doesn't support it")
        self.allocations += _may_raise()
        if self.fails_at is not None and _may_raise():
            self.fails_at -= 1
            if self.fails_at < 0:
                self.fails_at = None
                raise torch.OutOfMemoryError("pretend out of memory. Tried to allocate at the call that was named")
        if self.fails_above is not None and _may_raise() and made.untyped_storage().nbytes() > self.fails_above:
            raise torch.OutOfMemoryError(f"pretend out of memory. Tried to allocate {made.nbytes} bytes")


def _may_raise() -> bool:
    """Whether this is Python's own thread: under an error in one of autograd's torch aborts the process."""
    return threading.get_ident() == threading.main_thread().ident


DEVICE = Device()
_NOISE = torch.Generator().manual_seed(1)


class Pretend(Tensor):
    """A tensor of the pretend device: the shape and the type of ``held``, which lives on the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Pretend:
        return torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device="pretend:0", requires_grad=False,
        )  # fmt: skip

    def __init__(self, held: Tensor) -> None:
        self.held = held

    __torch_function__ = torch._C._disabled_torch_function_impl

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Pretend({self.held})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})

    # What torch asks without dispatching.
    def tolist(self) -> Any:
        DEVICE.waits["tolist"] += 1
        return self.held.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if not force:
            raise TypeError("can't convert pretend:0 device type tensor to numpy. Use Tensor.cpu() first.")
        return self.detach().cpu().numpy()

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        return self.numpy()

    def untyped_storage(self) -> Any:
        return self.held.untyped_storage()

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    @property
    def data(self) -> Tensor:  # type: ignore[override]
        return torch.Tensor.data.__get__(self)  # type: ignore[attr-defined, no-any-return]

    @data.setter
    def data(self, value: Tensor) -> None:
        if not isinstance(value, Pretend):
            raise RuntimeError(f"incompatible tensor type: a tensor of {value.device} cannot be data of pretend:0")
        torch.Tensor.data.__set__(self, value)  # type: ignore[attr-defined]
        self.held = value.held

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if not self.is_leaf:
            raise RuntimeError("Only Tensors created explicitly by the user support the deepcopy protocol")
        if id(self) not in memo:
            copy: Tensor = self.detach().clone(memory_format=torch.preserve_format)
            copy = torch.nn.Parameter(copy) if isinstance(self, torch.nn.Parameter) else copy
            memo[id(self)] = copy.requires_grad_(self.requires_grad)
        return memo[id(self)]

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.detach().cpu().__reduce_ex__(protocol)  # as it is read with map_location="cpu"


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """One operation: the CPU's kernel on what is held, its answer wrapped."""
    name = func._schema.name.split("::")[1]
    given, _ = tree_flatten((args, kwargs))
    tensors = [t for t in given if isinstance(t, Tensor)]
    own = [t for t in tensors if isinstance(t, Pretend)]
    others = [t for t in tensors if not isinstance(t, Pretend)]
    DEVICE.take()
    if name in INDEXES:
        for index in (i for i in (args[1] or ()) if isinstance(i, Tensor)):
            if not isinstance(index, Pretend) or index.dtype in (torch.bool, torch.uint8):
                DEVICE.waits[name] += 1
        others = [t for t in (args[0], *args[2:3]) if isinstance(t, Tensor) and not isinstance(t, Pretend)]
    if own and name not in CROSSES and any(t.ndim for t in others):
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, pretend:0 and cpu! "
            f"(when checking arguments of {func})"
        )
    if name in READS:
        DEVICE.waits[name] += 1
    to = kwargs.get("device")
    here = own[:1] if to is None else torch.device(to).type == "pretend"
    if name in ("_to_copy",) and to is not None and own and not here:
        DEVICE.waits["_to_copy to the host"] += not kwargs.get("non_blocking", False)
    if name == "copy_" and isinstance(args[0], Pretend) != isinstance(args[1], Pretend):
        late = kwargs.get("non_blocking", args[2] if len(args) > 2 else False)
        DEVICE.waits["copy_ to the host" if isinstance(args[1], Pretend) else "copy_ to the device"] += not late
    plain_args, plain = tree_map(_plain, (args, kwargs))
    if "device" in plain and plain["device"] is not None:
        plain["device"] = torch.device("cpu") if here else plain["device"]
    plain.pop("pin_memory", None) if here else None
    if name == "copy_":
        here = isinstance(args[0], Pretend)
    return _answer(func, args, kwargs, func(*plain_args, **plain), bool(here))


def _plain(value: Any) -> Any:
    if isinstance(value, Pretend):
        return value.held
    if isinstance(value, torch.Generator) and value.device.type == "pretend":
        return None
    return value


def _answer(func: Any, args: Any, kwargs: dict[str, Any], found: Any, here: bool) -> Any:
    """What is given back: the very arguments that were written to, everything else wrapped."""
    written = {}
    for i, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[i] if i < len(args) and not argument.kwarg_only else kwargs.get(argument.name)
            for t in tree_flatten(value)[0]:
                if isinstance(t, Pretend):
                    written[id(t.held)] = t
                    if t.shape != t.held.shape or t.stride() != t.held.stride():
                        _follow(t)
    sources = {t.held.untyped_storage()._cdata for t in tree_flatten((args, kwargs))[0] if isinstance(t, Pretend)}

    def wrap(t: Tensor) -> Tensor:
        if id(t) in written:
            return written[id(t)]
        if not here or isinstance(t, Pretend):
            return t
        if DEVICE.noise and func._schema.name.split("::")[1] in SUMS and t.is_floating_point():
            t = t * (1 + DEVICE.noise * torch.randn(t.shape, generator=_NOISE, dtype=t.dtype))
        t = t.resolve_conj().resolve_neg()  # flags of the held tensor are not the wrapper's
        if t.untyped_storage()._cdata not in sources:
            DEVICE.allocate(t)
        return Pretend(t)

    return tree_map_only(Tensor, wrap, found)


def _follow(t: Pretend) -> None:
    """The shape of a wrapper after what it holds was resized or transposed in place."""
    torch.Tensor.data.__set__(t, Pretend(t.held))  # type: ignore[attr-defined]


class Module:
    """What `torch.pretend` answers."""

    def is_initialized(self) -> bool:
        return DEVICE.present

    def is_available(self) -> bool:
        return DEVICE.present

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return int(DEVICE.present)

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        pass  # its random numbers are the CPU's

    def get_rng_state(self, device: Any = None) -> Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        torch.set_rng_state(state)

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def mem_get_info(self, device: Any = None) -> tuple[int, int]:
        return DEVICE.total, DEVICE.total

    def synchronize(self, device: Any = None) -> None:
        DEVICE.waits["synchronize"] += 1


def reason_against() -> str | None:
    """Why this torch cannot have a device written in Python; None where it can."""
    from torch.utils import backend_registration as found

    if not hasattr(found, "_setup_privateuseone_for_python_backend"):
        return f"torch {torch.__version__} has no backends written in Python (2.10 or later has)"
    if torch._C._get_privateuse1_backend_name() not in ("privateuseone", "pretend"):
        return "another backend has taken the one place that torch has for them"
    return None


_kept: list[Any] = []


def register() -> None:
    """Make the device known to torch, once; it is absent until `DEVICE.present`."""
    if _kept:
        return
    from torch.utils import backend_registration as found

    class Hook(torch._C._acc.PrivateUse1Hooks):
        def is_available(self) -> bool:
            return DEVICE.present

        def has_primary_context(self, device: int) -> bool:
            return DEVICE.present

        def is_built(self) -> bool:
            return True

        def get_new_generator(self, index: int) -> torch.Generator:
            return torch.Generator()

        def get_default_generator(self, index: int) -> torch.Generator:
            return torch.default_generator

    hook = Hook()
    found._setup_privateuseone_for_python_backend("pretend", backend_module=Module(), hook=hook)
    library = torch.library.Library("_", "IMPL")
    library.fallback(lambda op, *args, **kwargs: run(op, args, kwargs), "PrivateUse1")
    # On the CPU these cells are made of plain operations; devices have them fused, with a first derivative alone.
    cells = torch.library.Library("aten", "IMPL")
    cells.impl("_thnn_fused_lstm_cell", _lstm_cell, "AutogradPrivateUse1")
    cells.impl("_thnn_fused_gru_cell", _gru_cell, "AutogradPrivateUse1")
    _kept.extend([hook, library, cells])


def _lstm_cell(x: Tensor, h: Tensor, cell: Tensor, b: Tensor | None = None, c: Tensor | None = None) -> Any:
    gates = x + h + (0 if b is None else b) + (0 if c is None else c)
    i, f, g, o = gates.chunk(4, 1)
    cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
    return o.sigmoid() * cell.tanh(), cell, gates


def _gru_cell(x: Tensor, h: Tensor, state: Tensor, b: Tensor | None = None, c: Tensor | None = None) -> Any:
    (r, z, n), (s, y, m) = (x if b is None else x + b).chunk(3, 1), (h if c is None else h + c).chunk(3, 1)
    reset, update = (r + s).sigmoid(), (z + y).sigmoid()
    new = (n + reset * m).tanh()
    return new + update * (state - new), x


def _from_numbers(make: Any) -> Any:
    """Torch's way from Python's numbers to a device does not reach one that is written in Python: copied instead."""

    def made(*args: Any, device: Any = None, **kwargs: Any) -> Any:
        if device is None or torch.device(device).type != "pretend":
            return make(*args, device=device, **kwargs)
        return make(*args, **kwargs).to(device)

    return made


@contextmanager
def pretending(**how: Any) -> Iterator[Device]:
    """The device is there inside, and behaves as said."""
    before, makers = dict(vars(DEVICE)), (torch.tensor, torch.as_tensor)
    has_float64.cache_clear()
    vars(DEVICE).update(vars(Device(present=True, **how)))
    torch.tensor, torch.as_tensor = map(_from_numbers, makers)
    try:
        yield DEVICE
    finally:
        torch.tensor, torch.as_tensor = makers
        vars(DEVICE).update(before)
        has_float64.cache_clear()
