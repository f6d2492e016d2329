"""Networks that keep in a pass what they made of their weights, and use it again in the next one.

Some blocks, once in eval mode, index or combine their weights in the first pass only and keep the result as an
attribute (the attention biases of LeViT and its kin). Where the weights move, or are differentiated, such a value is
a constant of the past: slices are flat along those weights, and gradients zero. So a `Problem`'s own copy forgets, at
the end of every pass, whatever depends on weights and is neither a parameter nor a buffer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..base.errors import LandscapeError, UsageError
from ..numerics.trees import leaves
from ..runtime.random_state import preserved_random_state

Place = tuple[nn.Module, str]
_CONTAINERS = (dict, list)
_MISSING = object()
_SAME = 1e-3  # how far outputs may move, relatively, where a kept value is made anew, perhaps in another precision


def forget_kept_values(model: nn.Module, call: Callable[[], object]) -> list[str]:
    """Find by one pass what a network keeps of its weights, and let every later pass forget it.

    What it had kept before is emptied, if a pass makes it anew.

    Args:
        model: A network that nobody else uses.
        call: One pass over some examples; what fails in it is left to those who look at the data.

    Returns:
        The attributes, as ``module.name``.

    Raises:
        UsageError: If the network computes something else without what it had kept.
    """
    for key in [k for k, hook in model._forward_hooks.items() if isinstance(hook, _Forget)]:
        del model._forward_hooks[key]  # of a problem that this is a copy of
    kept = empty_kept_values(model, call)
    try:
        with preserved_random_state(), torch.enable_grad():
            kept |= _kept_now(model, call)
    except LandscapeError:
        raise
    except Exception:
        return []
    if kept:
        forget = _Forget(kept)
        forget()
        model.register_forward_hook(forget, always_call=True)
    names = _names(model)
    return [_told(place, names) for place in kept]


def empty_kept_values(model: nn.Module, call: Callable[[], object]) -> dict[Place, Any]:
    """Empty the attributes that a pass makes again from the weights when it finds them empty.

    Args:
        model: The network.
        call: One pass over some examples; what fails in it is left to those who look at the data.

    Returns:
        The attributes and what they hold now.

    Raises:
        UsageError: If the network computes something else without what it had kept.
    """
    try:
        with preserved_random_state(), torch.enable_grad():
            return _kept_before(model, call)
    except LandscapeError:
        raise
    except Exception:
        return {}


class _Forget:
    """A hook that gives attributes what they held before."""

    def __init__(self, kept: dict[Place, Any]) -> None:
        self.kept = list(kept.items())

    def __call__(self, *_: object) -> None:
        for place, value in self.kept:
            _write(place, value)


def _kept_now(model: nn.Module, call: Callable[[], object]) -> dict[Place, object]:
    """What a pass makes of the weights and the next one finds, and what was there before.

    What every pass makes anew (an attention map for whoever looks) is no harm.
    """
    before = {place: _contents(_held(place)) for place in _places(model)}
    call()
    made = {place: _tensors(_held(place)) for place in _places(model) if _depends_on_weights(_held(place))}
    if made:
        call()
    return {
        place: before.get(place, _MISSING)
        for place, tensors in made.items()
        if _same(_tensors(_held(place)), tensors)
    }


def _kept_before(model: nn.Module, call: Callable[[], object]) -> dict[Place, object]:
    held = {place: _tensors(_held(place)) for place in _places(model)}
    held = {place: tensors for place, tensors in held.items() if any(t.is_floating_point() for t in tensors)}
    expected = _outputs(call()) if held else []
    kinds: dict[tuple[type, str], list[Place]] = {}
    for (module, name), tensors in held.items():
        if _same(_tensors(_held((module, name))), tensors):
            kinds.setdefault((type(module), name), []).append((module, name))
    emptied: dict[Place, Any] = {}
    for places in kinds.values():
        kept = {place: _contents(_held(place)) for place in places}
        for place, value in kept.items():
            _write(place, _emptied(value))
        try:
            found = _outputs(call())
        except Exception:  # a constant of the network
            found = []
        made = bool(found) and all(_depends_on_weights(_held(place)) for place in places)
        for place, value in kept.items():
            _write(place, _emptied(value) if made else value)
        if made and not _close(expected, found):
            raise UsageError(
                "the network keeps a value from one pass to the next and computes something else without it",
                _told(places[0], _names(model)),
                "empty it before the analysis: an analysis needs a function of the weights and the inputs",
            )
        emptied |= {place: _emptied(value) for place, value in kept.items() if made}
    return emptied


def _places(model: nn.Module) -> list[Place]:
    """Attributes that are tensors or could hold them; parameters, buffers and hooks are kept elsewhere."""
    return [
        (module, name)
        for module in model.modules()
        for name, value in vars(module).items()
        if isinstance(value, Tensor) or (type(value) in _CONTAINERS and name not in _TORCHS_OWN)
    ]


_TORCHS_OWN = frozenset(name for name, value in vars(nn.Module()).items() if isinstance(value, _CONTAINERS))


def _names(model: nn.Module) -> dict[nn.Module, str]:
    return {module: name for name, module in model.named_modules()}


def _told(place: Place, names: dict[nn.Module, str]) -> str:
    return f"{names[place[0]]}.{place[1]}".lstrip(".")


def _held(place: Place) -> object:
    return vars(place[0]).get(place[1])


def _contents(value: Any) -> object:
    """What is held, and of a container a copy: passes write into it."""
    return value.copy() if type(value) in _CONTAINERS else value


def _emptied(value: object) -> object:
    return type(value)() if type(value) in _CONTAINERS else None


def _write(place: Place, value: object) -> None:
    module, name = place
    if value is _MISSING:
        vars(module).pop(name, None)
    else:
        vars(module)[name] = _contents(value)


def _tensors(value: object) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return list(leaves(value)) if type(value) in _CONTAINERS else []


def _same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(x is y for x, y in zip(a, b, strict=True))


def _depends_on_weights(value: object) -> bool:
    return any(t.grad_fn is not None for t in _tensors(value))


def _outputs(output: object) -> list[Tensor]:
    plain = output if isinstance(output, (Tensor, tuple, list, dict)) else vars(output)
    return [t.detach().double() for t in leaves(plain)]


def _close(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(
        x.shape == y.shape and float((x - y).abs().amax()) <= _SAME * float(x.abs().amax())
        for x, y in zip(a, b, strict=True)
        if x.numel()
    )
