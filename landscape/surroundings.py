"""What a caller may be in when it calls: ``torch.inference_mode``, a default device, one of several threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .errors import UsageError
from .turns import one_at_a_time


@contextmanager
def computing() -> Iterator[None]:
    """One computation of this process at a time, outside of ``torch.inference_mode``. Also a decorator.

    A graph that is built in inference mode has no derivatives, and what is kept of it spoils what comes later.

    Raises:
        UsageError: If tensors are made on the meta device here, where they hold no numbers.
    """
    if torch.get_default_device().type == "meta":
        raise UsageError("tensors hold no numbers there", 'default device "meta"', "call it outside of that")
    with one_at_a_time():
        if not torch.is_inference_mode_enabled():
            yield
            return
        with torch.inference_mode(False):
            yield
