"""A network's copy that computes with its own weights, and the proof that it does.

``copy.deepcopy`` leaves functions as they are. A lambda, a hook or a wrapper that closes over the network then goes
on reading the original: the copy's weights may move as they like, and nothing changes. Here functions are copied with
what they hold. What still cannot be followed (a network that a global name reaches) is found by comparing losses bit
for bit, and the gradient of each parameter.
"""

from __future__ import annotations

import copy
import functools
import operator
import types
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..base.errors import NumericalError, UsageError, is_the_machine
from ..numerics.layouts import COMPRESSED
from ..runtime.random_state import preserved_random_state
from .modes import evaluation_mode
from .stale_caches import empty_kept_values
from .with_loss import plain_network

HAND_OVER = "hand it over itself with Problem(..., copy=False), or name the callable that builds it with `model=`"
"""What can be done about a network that has no copy."""

_DEPTH = 30
_HOLD_NOTHING = (str, bytes, int, float, complex, type(None), types.ModuleType)


def copied(model: nn.Module) -> nn.Module:
    """A deep copy of a network, of the functions that hold it, and of weights that are computed from others."""
    memo: dict[int, Any] = {}
    clones: list[tuple[types.FunctionType, types.FunctionType]] = []
    own = {id(part) for part in (*model.modules(), *model.parameters(), *model.buffers())}
    for value in _held(model, set(), 0):
        if isinstance(value, types.FunctionType) and not _reaches(value, own, set(), 0):
            continue  # it holds nothing of the network: what it holds is the caller's
        if isinstance(value, Tensor):  # a result of a pass, an old weight_norm's, a sparse one: torch refuses to copy
            memo[id(value)] = value.detach().clone()
        else:
            cells = tuple(types.CellType() for _ in value.__closure__ or ())
            clone = types.FunctionType(value.__code__, value.__globals__, value.__name__, None, cells)
            clone.__qualname__, clone.__module__, clone.__doc__ = value.__qualname__, value.__module__, value.__doc__
            memo[id(value)] = clone
            clones.append((value, clone))
    try:
        found = copy.deepcopy(model, memo)
    except (TypeError, RuntimeError, NotImplementedError, copy.Error) as error:
        if is_the_machine(error):
            raise
        raise UsageError(
            f"the network cannot be copied: {str(error)[:200]}", type(plain_network(model)).__name__, HAND_OVER
        ) from error
    for original, clone in clones:
        clone.__defaults__ = copy.deepcopy(original.__defaults__, memo)
        clone.__kwdefaults__ = copy.deepcopy(original.__kwdefaults__, memo)
        clone.__dict__.update({k: copy.deepcopy(v, memo) for k, v in vars(original).items()})
        for mine, theirs in zip(clone.__closure__ or (), original.__closure__ or (), strict=True):
            try:
                mine.cell_contents = copy.deepcopy(theirs.cell_contents, memo)
            except ValueError:  # not filled yet
                continue
    return found


def _held(value: object, seen: set[int], depth: int) -> Iterator[Any]:
    """Functions that hold something, and tensors that have no deep copy, wherever a network keeps them."""
    if id(value) in seen or depth > _DEPTH or isinstance(value, _HOLD_NOTHING):
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        if not value.is_leaf or (value.layout in COMPRESSED and not isinstance(value, nn.Parameter)):
            yield value
        return
    if isinstance(value, types.FunctionType):
        yield value
    for part in _parts(value):
        yield from _held(part, seen, depth + 1)


def _reaches(value: object, own: set[int], seen: set[int], depth: int) -> bool:
    """Whether a part of the network can be reached from a value."""
    if id(value) in own:
        return True
    if id(value) in seen or depth > _DEPTH or isinstance(value, (*_HOLD_NOTHING, Tensor)):
        return False
    seen.add(id(value))
    return any(_reaches(part, own, seen, depth + 1) for part in _parts(value))


def _parts(value: object) -> list[object]:
    """What a value holds."""
    if isinstance(value, types.FunctionType):
        return [*_contents(value), value.__defaults__, value.__kwdefaults__, vars(value)]
    if isinstance(value, types.MethodType):
        return [value.__self__]
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(value)
    if isinstance(value, type):
        return []
    return list(getattr(value, "__dict__", {}).values())


def _contents(function: types.FunctionType) -> Iterator[object]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:
            continue


def require_faithful(
    original: nn.Module, own: nn.Module, loss_of: Callable[[nn.Module], Tensor], *, training: bool = False
) -> None:
    """Compare a network with its copy: the loss of a few examples bit for bit, and the gradient of each parameter.

    A pass of the original that fails, or gives something else the second time, is left to those who look at that.

    Args:
        original: What the caller has; weights, buffers and modes are given back as they were.
        own: Its copy, on the same device and of the same types.
        loss_of: The loss of a few examples, with its graph.
        training: Look in train mode.

    Raises:
        UsageError: If the two differ; says in what.
        NumericalError: If two passes of the original differ as well.
    """
    modes = evaluation_mode(original, training=training), evaluation_mode(own, training=training)
    with preserved_random_state(), modes[0], modes[1], _as_it_was(original):
        empty_kept_values(original, lambda: loss_of(original))
        try:
            with preserved_random_state():
                expected = _loss_and_gradients(original, loss_of)
        except Exception:
            return
        try:
            with preserved_random_state(), _as_it_was(own):
                empty_kept_values(own, lambda: loss_of(own))
                found = _loss_and_gradients(own, loss_of)
        except Exception as error:
            raise _unfaithful(f"its pass ends in {type(error).__name__}: {error}", original) from error
        if not _same(expected[0].double(), found[0].double()):
            again = loss_of(original).detach()
            if not _same(expected[0].double(), again.double()):
                raise NumericalError(
                    f"two passes over the same examples give {float(expected[0]):.7g} and {float(again):.7g}",
                    type(plain_network(original)).__name__,
                    "the forward or the loss is random, keeps state or writes into its inputs: avoid that",
                )
            raise _unfaithful(f"{float(found[0]):.7g} in place of {float(expected[0]):.7g}", original)
    names = [k for k, p in original.named_parameters() if p.requires_grad]
    apart = [
        name
        for name, a, b in zip(names, expected[1], found[1], strict=True)
        if (a is None) != (b is None) or (a is not None and b is not None and not _same(a, b))
    ]
    if apart:
        some = ", ".join(apart[:5]) + (", ..." if len(apart) > 5 else "")
        raise _unfaithful(f"its loss does not follow its own {some}", original)


def _unfaithful(what: str, model: nn.Module) -> UsageError:
    return UsageError(
        f"a copy of the network is not the network: {what}",
        f"{type(plain_network(model)).__name__}: a function outside it reads the original",
        HAND_OVER,
    )


def _loss_and_gradients(model: nn.Module, loss_of: Callable[[nn.Module], Tensor]) -> tuple[Tensor, list[Any]]:
    with torch.enable_grad():
        loss = loss_of(model)
        parameters = [p for p in model.parameters() if p.requires_grad]
        if not parameters or not loss.requires_grad:
            return loss.detach(), [None] * len(parameters)
        # Norms and not the gradients themselves: two whole gradients would be as much memory as the network again.
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    sizes = [None if g is None else torch.linalg.vector_norm(g.detach().to_dense().abs().double()) for g in gradients]
    return loss.detach(), sizes


def _same(a: Tensor, b: Tensor) -> bool:
    """Equal to rounding: a device may add up in another order the second time."""
    return bool(torch.allclose(a, b, rtol=1e-5, atol=1e-30, equal_nan=True))


@contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """Afterwards parameters, buffers and attributes are what they were, also where a forward pass writes to them.

    Hooks that change the gradient of a weight do nothing inside: they are no part of the loss, and no copy has them.
    """
    tensors = [*model.parameters(), *model.buffers()]
    kept = [(t, t._version, t.detach().clone()) for t in tensors if not t.is_meta and not t.is_inference()]
    holders = [holder for module in model.modules() for holder in _containers(module)]
    held = [(holder, holder.copy()) for holder in holders]
    hooks = [(t._backward_hooks, dict(t._backward_hooks)) for t in model.parameters() if t._backward_hooks]
    for live, _ in hooks:
        live.clear()
    try:
        yield
    finally:
        for live, was in hooks:
            live.update(was)
        for holder, was in held:
            _put_back(holder, was)
        with torch.no_grad():
            for tensor, version, value in kept:
                if tensor._version != version:
                    tensor.copy_(value)


def _containers(module: nn.Module) -> Iterator[Any]:
    """The dictionaries, lists and sets in which a module keeps its attributes; not what they hold in turn."""
    if isinstance(module, torch.jit.ScriptModule):  # its attributes live elsewhere
        return
    yield module.__dict__
    for value in list(module.__dict__.values()):
        if type(value) in (dict, OrderedDict, list, set):  # other kinds have rules of their own
            yield value


def _put_back(holder: Any, was: Any) -> None:
    """Let a container hold what it held, in the same order."""
    if not holder and not was:
        return
    if isinstance(holder, set):
        if holder != was:
            holder.clear()
            holder.update(was)
    elif isinstance(holder, list):
        if not _identical(holder, was):
            holder[:] = was
    elif not (_identical(holder.values(), was.values()) and list(holder) == list(was)):
        holder.clear()
        holder.update(was)


def _identical(a: Collection[object], b: Collection[object]) -> bool:
    return len(a) == len(b) and all(map(operator.is_, a, b))
