"""Names of weights in the files of transformers, which differ from the names of its networks.

The library renames and splits tensors when it saves and undoes it when it loads, differently for each architecture
and version; so the library itself is asked. It is given tensors that our reader has read, never a file.
"""

from __future__ import annotations

import copy
import importlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..base.errors import DataError

log = logging.getLogger(__name__)


def own_names(model: nn.Module, tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor] | None:
    """The tensors under the names of a network of transformers, those it has no name for under their own.

    Returns:
        None if this is no such network.

    Raises:
        DataError: If a shape does not fit.
    """
    kind: Any = type(model)
    bases = [f"{base.__module__}.{base.__name__}" for base in kind.__mro__]
    if "transformers.modeling_utils.PreTrainedModel" not in bases:
        return None
    types = {t.dtype for t in tensors.values() if t.is_floating_point()}
    dtype = types.pop() if len(types) == 1 else torch.float32  # what is stored, never less
    config = copy.deepcopy(getattr(model, "config", None))
    try:
        with _quiet():
            made, report = kind.from_pretrained(
                None,
                config=config,
                state_dict=dict(tensors),
                dtype=dtype,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except Exception as error:  # what does not fit is then refused by name
        log.debug("transformers cannot rename these weights: %s", error)
        return None
    for name, *shapes in report["mismatched_keys"]:
        given, expected = (tuple(shape) for shape in shapes)
        fix = "is it another model, or another number of classes?"
        raise DataError(f"{name} has shape {given}, the model expects {expected}", where, fix)
    found = {k: v for k, v in made.state_dict().items() if k not in report["missing_keys"]}
    return found | {k: tensors[k] for k in report["unexpected_keys"] if k in tensors}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's own bars and reports."""
    talk = importlib.import_module("transformers.utils.logging")
    before, bars = talk.get_verbosity(), talk.is_progress_bar_enabled()
    talk.set_verbosity_error()
    talk.disable_progress_bar()
    try:
        yield
    finally:
        talk.set_verbosity(before)
        if bars:
            talk.enable_progress_bar()
