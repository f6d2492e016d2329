"""The examples that probes look at in a loop of the user's: one batch, kept as it was when it was given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..base.errors import DataError, UsageError
from ..base.files import atomic_path
from ..data.examples import Examples
from ..data.stores import TensorStore
from ..numerics.trees import leaves, map_tensors

_LABELS = ("labels", "label")  # of the batches of Hugging Face
_FORMS = "give (inputs, targets), (inputs, targets, domains), a mapping from domains to pairs, or one with 'labels'"


def examples_of(batch: Any, where: str = "batch") -> Examples:
    """The examples of a batch, copied to the CPU.

    Args:
        batch: ``(inputs, targets)``, or ``(inputs, targets, domains)`` with a number or a name for each example; a
            mapping from names of domains to pairs; a mapping with ``labels``, whose tensors are the inputs, too; or
            `Examples`.
        where: What it is called in messages.

    Raises:
        DataError: If it is nothing of that, or its tensors differ in length.
    """
    if isinstance(batch, Examples):
        return batch.in_memory()
    if isinstance(batch, Mapping):
        label = next((k for k in _LABELS if isinstance(batch.get(k), Tensor)), None)
        if label is None:
            return Examples.of({k: map_tensors(tuple(v), _kept) for k, v in batch.items()}, where).in_memory()
        n = len(batch[label])
        inputs = {k: v for k, v in batch.items() if isinstance(v, Tensor) and v.ndim and len(v) == n}
        return _made(inputs, batch[label], None, where)
    if not isinstance(batch, Sequence) or len(batch) not in (2, 3):
        raise DataError(f"a {type(batch).__name__} is no batch of examples", where, _FORMS)
    return _made(batch[0], batch[1], batch[2] if len(batch) == 3 else None, where)


def _kept(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().clone()


def _made(inputs: Any, targets: Any, domain: Any, where: str) -> Examples:
    inputs, targets = map_tensors(inputs, _kept), map_tensors(targets, _kept)
    tensors = [*leaves(inputs), *leaves(targets)]
    sizes = {len(t) if t.ndim else None for t in tensors}
    if not tensors or len(sizes) != 1 or None in sizes:
        raise DataError(f"its tensors have {sorted(map(str, sizes))} examples", where, _FORMS)
    n = len(tensors[0])
    if domain is None:
        return Examples(TensorStore(inputs, targets), np.arange(n), np.zeros(n, dtype=np.int64), None)
    of_each = domain.tolist() if isinstance(domain, Tensor | np.ndarray) else list(domain)
    if isinstance(domain, Mapping) or any(isinstance(d, (list, tuple, dict, Tensor)) for d in of_each):
        fix = "give (inputs, targets), or the column of the metadata that is the domain: (x, y, metadata[:, 0])"
        raise DataError("what comes with it is metadata, and no domain for each example", where, fix)
    if len(of_each) != n:
        raise DataError(f"{len(of_each)} domains for {n} examples", where, "give each example its domain")
    present = sorted(set(of_each))
    index = np.array([present.index(d) for d in of_each], dtype=np.int64)
    return Examples(TensorStore(inputs, targets), np.arange(n), index, tuple(map(str, present)))


def save_examples(examples: Examples, path: Path) -> None:
    """Write them in one piece."""
    batch = examples.batch(np.arange(len(examples)))
    kept = {"inputs": batch.inputs, "targets": batch.targets, "domain": batch.domain, "domains": examples.domains}
    with atomic_path(path) as temporary:
        torch.save(kept, temporary)


def load_examples(path: Path) -> Examples:
    """Read what `save_examples` has written.

    Raises:
        DataError: If the file is damaged.
    """
    try:
        kept = torch.load(path, map_location="cpu", weights_only=True)
        n = len(kept["domain"])
        return Examples(
            TensorStore(kept["inputs"], kept["targets"]), np.arange(n), kept["domain"].numpy(), kept["domains"]
        )
    except Exception as error:
        fix = "start anew with force=True"
        raise DataError(f"the recorded batch is damaged ({type(error).__name__})", str(path), fix) from error


def own_loss(output: Any, _: Any) -> Tensor:
    """The loss that a network computes itself, as those of transformers do.

    Raises:
        UsageError: If it gives none.
    """
    found = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if not isinstance(found, Tensor):
        raise UsageError("the network gives no loss of its own", type(output).__name__, "pass loss=...")
    return found
