"""What belongs to the whole process, used by several threads: one at a time, or changed while any of them needs it.

Random states, the weights of a problem, Python's warning filters and matplotlib's settings are given back after use.
Two threads that do so at once give back what the other one had set. So whoever changes them takes a turn. Settings
that a forward pass needs are changed when the first thread comes and given back when the last one leaves.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from weakref import WeakSet

_TURN = [threading.RLock()]
_SHARED: WeakSet[Shared] = WeakSet()


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Wait until no other thread of this process is inside such a block; blocks of one thread may be nested.

    Also a decorator.
    """
    with _TURN[-1]:
        yield


class Shared:
    """A setting of the process that is another one while any thread is inside.

    Args:
        change: Makes the change, and returns what undoes it.
    """

    def __init__(self, change: Callable[[], Callable[[], object]]) -> None:
        self._change, self._lock = change, threading.RLock()
        self._undo: Callable[[], object] | None = None
        self._inside: dict[int, int] = {}  # how often each thread is
        _SHARED.add(self)

    @property
    def here(self) -> bool:
        """Whether this thread is inside."""
        return threading.get_ident() in self._inside

    def __enter__(self) -> None:
        me = threading.get_ident()
        with self._lock:
            if self._undo is None:
                self._undo = self._change()
            self._inside[me] = self._inside.get(me, 0) + 1

    def __exit__(self, *_: object) -> None:
        me = threading.get_ident()
        with self._lock:
            self._inside[me] -= 1
            if not self._inside[me]:
                del self._inside[me]
            self._give_back()

    def _give_back(self) -> None:
        if not self._inside and self._undo is not None:
            undo, self._undo = self._undo, None
            undo()

    def _alone_after_fork(self) -> None:
        me = threading.get_ident()
        self._lock = threading.RLock()
        self._inside = {me: self._inside[me]} if me in self._inside else {}
        self._give_back()


def _after_fork() -> None:
    """A child has only the thread that forked: it waits for no other, and undoes what others had changed."""
    _TURN.append(threading.RLock())
    for shared in list(_SHARED):
        shared._alone_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
