"""How the C library hands freed memory back: later than it would by itself."""

from __future__ import annotations

import contextlib
import ctypes

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # glibc's malloc.h


def keep_freed_memory() -> bool:
    """Let this process keep up to 2 GB of the memory that it frees; False where the C library is not glibc.

    A pass frees its activations and the next one asks for as many. By default glibc gives them to the system in
    between and gets them back page by page, zeroed: a quarter of a ResNet's gradient on a CPU, a third of its
    Hessian product. Blocks above 32 MB go back at once as before, so that the largest memory in use stays the same.

    For programs that own their process: commands and workers call it, the library never does by itself.

    Example:
        >>> import landscape
        >>> kept = landscape.keep_freed_memory()
    """
    with contextlib.suppress(OSError, TypeError, AttributeError):  # no glibc: macOS, Windows, musl
        settings = {_MMAP_THRESHOLD: 32 * 2**20, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 64 * 2**20}
        return all(ctypes.CDLL(None).mallopt(name, value) for name, value in settings.items())
    return False
