"""What a caller may be in when it calls: ``torch.inference_mode``, a default device, one of several threads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import torch

from ..base.errors import ResourceError, UsageError, argument, is_device_lost, is_out_of_memory
from ..base.process_state import one_at_a_time

_FORKED_AMONG_THREADS: list[int] = []
_TASKS = Path("/proc/self/task")


def _before_fork() -> None:
    _BEFORE[:] = [len(list(_TASKS.iterdir())) if _TASKS.is_dir() else 2]  # 2: nobody knows


def _after_fork() -> None:
    if _BEFORE[0] > 1:
        _FORKED_AMONG_THREADS.append(os.getpid())


_BEFORE = [1]
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork)


@contextmanager
def computing() -> Iterator[None]:
    """One computation of this process at a time, outside of ``torch.inference_mode``. Also a decorator.

    A graph that is built in inference mode has no derivatives, and what is kept of it spoils what comes later.

    Raises:
        ResourceError: If memory runs out and nothing inside could do with less, or a device is gone.
        UsageError: If tensors are made on the meta device here, where they hold no numbers; or in a forked process
            that torch is to use several threads in: it has none of those that it remembers, and waits for ever.
    """
    if _inside.get() and not torch.is_inference_mode_enabled():  # all of it was looked at further out
        yield
        return
    if _FORKED_AMONG_THREADS and torch.get_num_threads() > 1:
        fix = "call torch.set_num_threads(1) in it first, or start it with the method spawn"
        raise UsageError("torch's threads are not there any more", "a forked process", fix)
    if torch.get_default_device().type == "meta":
        raise UsageError("tensors hold no numbers there", 'default device "meta"', "call it outside of that")
    with one_at_a_time(), _in_words():
        if not torch.is_inference_mode_enabled():
            yield
            return
        with torch.inference_mode(False):
            yield


_inside: ContextVar[bool] = ContextVar("landscape_computing", default=False)


@contextmanager
def _in_words() -> Iterator[None]:
    """Say what the machine lacks, around the whole computation: inside, work is divided where memory runs out."""
    if _inside.get():
        yield
        return
    token = _inside.set(True)
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        said = " ".join(str(error).split())[:200]
        if is_device_lost(error):
            fix = "start a new process: it goes on from what is stored, also with another `device=`"
            raise ResourceError(f"the device does not answer any more: {said}", "an accelerator", fix) from error
        if is_out_of_memory(error):
            fix = f"give a smaller {argument('batch_size')} or fewer {argument('examples')}, or a smaller model"
            raise ResourceError("out of memory", said or type(error).__name__, fix + in_pieces(said)) from error
        raise
    finally:
        _inside.reset(token)


def in_pieces(said: str) -> str:
    """What helps where torch has memory of a GPU, but in pieces; ``said`` is its message, or the device's type."""
    if "cuda" not in said.lower() or "expandable_segments:true" in os.environ.get(_ALLOCATOR, "").lower():
        return ""
    return f"; where enough is free but in pieces, {_ALLOCATOR}=expandable_segments:True"


_ALLOCATOR = "PYTORCH_ALLOC_CONF"
