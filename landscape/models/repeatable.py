"""Whether a model callable gives the same network each time, in all that no checkpoint holds."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from ..base.errors import UsageError
from ..data.examples import Examples
from ..numerics.layouts import is_plain, plain_parts
from ..numerics.trees import leaves
from ..problem.forward import forward
from ..problem.modes import evaluation_mode
from ..runtime.random_state import preserved_random_state, seed_everything

_SHOWN = 3


def require_repeatable(
    model: nn.Module, again: Callable[[], nn.Module], kept: Collection[str], examples: Examples, name: str
) -> None:
    """Build the network a second time under another seed, where something in it comes from its callable alone.

    A random base under trained adapters, or random features in a buffer that is not saved, would be another
    network in every process, and none of them the trained one.

    Args:
        model: As it was built, with the checkpoint in it.
        again: Builds it.
        kept: Names of its state that the checkpoint did not hold.
        examples: Some to compare outputs on.
        name: Of the callable, for messages.

    Raises:
        UsageError: If such tensors differ; a tensor that is not saved counts where the outputs differ, too.
    """
    unsaved = dict(_unsaved(model))
    if not kept and not unsaved:
        return
    with preserved_random_state():
        seed_everything(1, "open again")
        other = again()
        own, its = model.state_dict(), other.state_dict()
        differ = [k for k in kept if k not in its or not _equal(own[k], its[k])]
        if not differ and unsaved:
            theirs = dict(_unsaved(other))
            differ = [k for k, v in unsaved.items() if k not in theirs or not _equal(v, theirs[k])]
            other.load_state_dict(own)
            if differ and _same_outputs(model, other, examples):
                return  # scratch that every forward fills anew
    if differ:
        shown = ", ".join(differ[:_SHOWN]) + (", ..." if len(differ) > _SHOWN else "")
        raise UsageError(
            f"THE MODEL IS ANOTHER ONE EACH TIME IT IS BUILT: {len(differ)} tensor(s) that the checkpoint does not "
            f"hold come out random: {shown}",
            name,
            "load or seed them inside the callable as in training, or give the full checkpoint",
        )


def _unsaved(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Tensors that are no part of the state: buffers that are not saved, and plain attributes."""
    saved = model.state_dict()
    for prefix, module in model.named_modules():
        plain = {k: v for k, v in vars(module).items() if isinstance(v, Tensor)}
        for key, tensor in (*module.named_buffers(recurse=False), *plain.items()):
            full = f"{prefix}.{key}" if prefix else key
            if full not in saved and tensor.is_leaf:
                yield full, tensor


def _equal(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype or a.layout != b.layout:
        return False
    if not is_plain(a):
        parts = plain_parts(a), plain_parts(b)
        return len(parts[0]) == len(parts[1]) and all(map(_equal, *parts))
    return bool(((a == b) | (a.isnan() & b.isnan())).all())


def _same_outputs(model: nn.Module, other: nn.Module, examples: Examples) -> bool:
    """Whether both give the same on the first two examples; what they do not take is said elsewhere."""
    batch = examples.batch(np.arange(min(2, len(examples))))
    found = []
    for one in (model, other):
        kind = next((p.dtype for p in one.parameters() if p.is_floating_point()), torch.float32)
        seed_everything(0, "outputs")
        try:
            with torch.no_grad(), evaluation_mode(one):
                found.append(leaves(forward(one, batch.to(torch.device("cpu"), kind).inputs)))
        except Exception:  # an objective of the user's raises anything
            return True
    return all(_equal(a, b) for a, b in zip(*found, strict=True))
