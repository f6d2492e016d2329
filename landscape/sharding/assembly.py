"""A plain network made of a sharded one: it keeps this process's pieces and makes weights whole where they are used.

What ``fully_shard`` and ``parallelize_module`` put around a network (classes, hooks) is left behind, since nothing
goes through it twice. The network that is left computes on whole weights, each gathered from all processes when a
module asks for it and let go of afterwards: what autograd saves for the way back is which weight it was, not the
weight. All processes make the same passes at the same time, each over its own examples.
"""

from __future__ import annotations

import copy
import functools
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..base.errors import UsageError
from .parts import Part
from .pieces import Piece, gathered, is_spread, replicated

_PIECES = "_landscape_pieces"
_ASSEMBLY = "_landscape_assembly"
OWN_ATTRIBUTES = (_PIECES, _ASSEMBLY)
"""Attributes that modules have of it, which are no part of what the network is."""
_OF_WRAPPERS = ("torch.distributed.",)
_HOOKS = (
    *("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"),
    *("_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"),
)


def is_sharded(model: nn.Module) -> bool:
    """Whether processes hold pieces of the network's parameters."""
    return any(map(is_spread, model.parameters()))


def pieces_of(model: nn.Module) -> dict[str, Piece]:
    """By parameter name, the pieces of a network that was `assembled`; empty for any other."""
    return {
        f"{prefix}.{name}" if prefix else name: piece
        for prefix, module in model.named_modules()
        for name, piece in module.__dict__.get(_PIECES, {}).items()
    }


def assembled(model: nn.Module) -> nn.Module:
    """A plain network over copies of this process's pieces of a sharded network, which stays as it is.

    Raises:
        UsageError: If a parameter is not held in blocks, or where torch reads it no other way leads to it.
    """
    at_rest(model)
    mesh = next(p.device_mesh for p in model.parameters() if is_spread(p))  # type: ignore[attr-defined]
    memo: dict[int, Any] = {}
    pieces: dict[int, Piece] = {}
    for name, parameter in model.named_parameters():
        if parameter.is_complex():
            raise UsageError("complex weights are not analysed in pieces", name, "gather the model in one process")
        held: Any = parameter
        spread = is_spread(parameter)
        own: Tensor = held.to_local() if spread else parameter
        shared, placements = (held.device_mesh, held.placements) if spread else (mesh, replicated(mesh))
        pieces[id(parameter)] = Piece(parameter.shape, shared, placements, name)
        memo[id(parameter)] = nn.Parameter(own.detach().clone().contiguous(), requires_grad=parameter.requires_grad)
    kinds = {id(module): _unwrapped_kind(type(module)) for module in model.modules()}
    shells = {key: kind.__new__(kind) for key, kind in kinds.items()}
    memo |= shells
    assembly = Assembly()
    for name, module in model.named_modules():
        shell = shells[id(module)]
        for key, value in module.__dict__.items():
            if key.startswith(("__composable_api", "_is_fsdp_managed", "_fsdp_")):
                continue
            shell.__dict__[key] = _without_wrappers(module, key, value, memo)
        kept = {k: pieces[id(p)] for k, p in module._parameters.items() if p is not None}
        if kept:
            if isinstance(module, nn.RNNBase):
                fix = "gather the model in one process"
                raise UsageError("torch's recurrent layers keep lists of their weights", name, fix)
            shell.__dict__[_PIECES], shell.__dict__[_ASSEMBLY] = kept, assembly
            kind: Any = type(shell)
            shell.__class__ = _assembling(kind)
    root: nn.Module = shells[id(model)]
    root.register_forward_pre_hook(assembly.enter)
    root.register_forward_hook(assembly.leave, always_call=True)
    for buffer in root.buffers():
        if is_spread(buffer):
            raise UsageError("a buffer is held in pieces", type(root).__name__, "let every process hold all of it")
    return root


def plain_kind(kind: Any) -> Any:
    """The class that an assembled network's module would have in one process."""
    return kind.__dict__.get("plain_kind", kind)


def is_own_hook(hook: Any) -> bool:
    """Whether a hook is there only because the network is assembled."""
    return isinstance(getattr(hook, "__self__", None), Assembly)


def whole_shape(module: nn.Module, name: str, parameter: Tensor) -> tuple[int, ...]:
    """The shape of a module's parameter; of one that it holds a piece of that of the whole."""
    piece = module.__dict__.get(_PIECES, {}).get(name)
    return tuple(parameter.shape) if piece is None else piece.shape


def spread_state(model: nn.Module) -> dict[str, Tensor]:
    """The ``state_dict`` of an assembled network, its parameters seen as whole ones, in the network's own memory."""
    pieces = pieces_of(model)
    return {k: Part(t.detach(), pieces[k]) if k in pieces else t for k, t in model.state_dict().items()}


class Assembly:
    """What an assembled network's modules share: whether a pass is under way, and which whole weights there are."""

    def __init__(self) -> None:
        self.depth = 0
        self.around: list[AbstractContextManager[None]] = []

    def enter(self, *_: Any) -> None:
        """A pass begins."""
        self.depth += 1
        if torch.is_grad_enabled():
            self.around.append(regathering())
            self.around[-1].__enter__()

    def leave(self, *_: Any) -> None:
        """It ends."""
        self.depth = max(0, self.depth - 1)
        if self.depth == 0:
            while self.around:
                self.around.pop().__exit__(None, None, None)


# -- gathered again where autograd needs it ------------------------------------------------------------------------

_Known = dict[int, tuple["weakref.ref[Tensor]", Tensor, Piece]]
_known: _Known = {}


def whole_weight(local: Tensor, piece: Piece) -> Tensor:
    """The whole weight; where it is saved for the way back inside `regathering`, only which one it was is kept."""
    found = gathered(local, piece)
    if torch.is_grad_enabled():
        place = found.untyped_storage().data_ptr()

        def forget(_: Any) -> None:
            _known.pop(place, None)

        _known[place] = weakref.ref(found, forget), local.detach(), piece
    return found


@contextmanager
def regathering() -> Iterator[None]:
    """Inside, weights that are saved for a way back are not: the way back gathers them again."""
    with torch.autograd.graph.saved_tensors_hooks(_pack, _unpack):
        yield


def _pack(tensor: Tensor) -> Any:
    known = _known.get(tensor.untyped_storage().data_ptr()) if tensor.layout == torch.strided else None
    if known is None or known[0]() is None:
        # Autograd restores its place in the graph; the tensor itself would close a cycle.
        return tensor.detach(), tensor._version
    _, local, piece = known
    return local, piece, local._version, (tensor.shape, tensor.stride(), tensor.storage_offset())


def _unpack(saved: Any) -> Tensor:
    if len(saved) == 2:
        tensor, version = saved
    else:
        tensor, piece, version, view = saved
    if tensor._version != version:  # without hooks autograd looks itself
        raise RuntimeError("a variable needed for gradient computation has been modified by an inplace operation")
    if len(saved) == 2:
        return tensor  # type: ignore[no-any-return]
    whole = piece.whole(tensor)
    place = whole.untyped_storage().data_ptr()
    found: Tensor = whole.as_strided(*view)

    def forget(_: Any) -> None:
        _known.pop(place, None)

    _known[place] = weakref.ref(found, forget), tensor, piece  # what walks back may save it once more
    return found


# -- leaving wrappers behind ---------------------------------------------------------------------------------------


def at_rest(model: nn.Module) -> None:
    """Let FSDP's modules give back what a pass has made whole."""
    for module in model.modules():
        reshard = getattr(module, "reshard", None)
        if callable(reshard) and type(module) is not _unwrapped_kind(type(module)):
            reshard()


def _unwrapped_kind(kind: Any) -> Any:
    """The class that ``fully_shard`` has put its own on top of."""
    for other in kind.__mro__:
        if other.__module__.startswith("torch.distributed.fsdp") and other.__name__ == "FSDPModule":
            return kind.__mro__[kind.__mro__.index(other) + 1]
    return kind


def _without_wrappers(module: nn.Module, key: str, value: Any, memo: dict[int, Any]) -> Any:
    if not key.startswith(_HOOKS) or not isinstance(value, dict):
        return copy.deepcopy(value, memo)
    base = next(name for name in sorted(_HOOKS, key=len, reverse=True) if key.startswith(name))
    hooks = module.__dict__.get(base) or {}
    foreign = {k for k, hook in hooks.items() if _module_of(hook).startswith(_OF_WRAPPERS)}
    return type(value)((k, copy.deepcopy(v, memo)) for k, v in value.items() if k not in foreign)


def _module_of(hook: Any) -> str:
    while isinstance(hook, functools.partial):
        hook = hook.func
    hook = getattr(hook, "hook", hook)  # torch wraps some
    return str(getattr(hook, "__module__", None) or type(hook).__module__)


def _on_the_way_back() -> bool:
    """Whether autograd is running: blocks that compute their activations again do so then."""
    return bool(torch._C._current_graph_task_id() != -1)


@functools.lru_cache(maxsize=256)
def _assembling(kind: Any) -> Any:
    """The class of a module that makes its parameters whole when they are asked for in a pass."""

    class Assembling(kind):  # type: ignore[misc]
        def __getattr__(self, name: str) -> Any:
            found = super().__getattr__(name)
            piece = self.__dict__[_PIECES].get(name)
            if piece is None or not (self.__dict__[_ASSEMBLY].depth or _on_the_way_back()):
                return found
            return whole_weight(found, piece)

    Assembling.__name__, Assembling.__qualname__ = kind.__name__, kind.__qualname__
    Assembling.__module__, Assembling.__doc__ = kind.__module__, kind.__doc__
    Assembling.plain_kind = kind
    return Assembling
