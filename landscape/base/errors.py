"""One error type per exit code of the command line.

Every error says three things in one line: what happened, where, and what to do about it. The classes also
derive from the built-in exception that Python callers expect, so both styles of ``except`` work.

What a user gave is named as Python does, by the name of the argument or field, in back quotes and with an equals
sign, so that no other text looks like it: use `dtype='float64'`, drop `loss=`. The command line shows its flags in
place of them.
"""

from __future__ import annotations


class LandscapeError(Exception):
    """Base of all errors raised on purpose.

    Args:
        what: What happened, without a final full stop.
        where: The file, layer, step, configuration key or domain concerned.
        fix: What the reader can do.
    """

    exit_code = 1

    def __init__(self, what: str, where: str = "", fix: str = "") -> None:
        self.what, self.where, self.fix = what, where, fix
        super().__init__(str(self))

    def __str__(self) -> str:
        text = self.what
        if self.where:
            text += f" ({self.where})"
        if self.fix:
            text += f": {self.fix}"
        return " ".join(text.split())


class UsageError(LandscapeError, ValueError):
    """Wrong option, contradictory options, a missing path, a run folder in use (exit code 2)."""

    exit_code = 2


class DataError(LandscapeError, ValueError):
    """A checkpoint or data set that is unsafe, damaged or does not fit (exit code 3)."""

    exit_code = 3


class NumericalError(LandscapeError, ArithmeticError):
    """NaN or infinity, no convergence, no second derivative (exit code 4)."""

    exit_code = 4


class ResourceError(LandscapeError, RuntimeError):
    """Disk full, or out of memory after every reduction (exit code 5)."""

    exit_code = 5


class Interrupted(LandscapeError):
    """Stopped by a signal after everything needed to continue was saved (exit code 75)."""

    exit_code = 75


def argument(name: str, value: object = None) -> str:
    """How a text names an argument or the field of a spec; with ``value``, as it was given or should be.

    Example:
        >>> argument("save_every"), argument("dtype", "float64")
        ('`save_every=`', "`dtype='float64'`")
    """
    return f"`{name}=`" if value is None else f"`{name}={value!r}`"


# What drivers and torch say once a device will not answer this process any more.
_LOST = (
    *("device lost", "device_lost", "device is lost", "device disappeared", "fallen off the bus"),
    *("unspecified launch failure", "illegal memory access", "device-side assert", "launch timed out"),
    *("uncorrectable ecc", "hardware stack error", "misaligned address", "illegal instruction"),
    *("no cuda-capable device", "devices unavailable", "driver shutting down", "cuda error: unknown error"),
)


def is_device_lost(error: BaseException) -> bool:
    """Whether ``error`` means that an accelerator answers this process no more, whatever it is asked."""
    if isinstance(error, LandscapeError) or not isinstance(error, RuntimeError) or is_out_of_memory(error):
        return False
    text = str(error).lower()
    return any(words in text for words in _LOST)


def is_the_machine(error: BaseException) -> bool:
    """Whether ``error`` is the machine's, short of memory or without its device, and says nothing of the network."""
    return is_out_of_memory(error) or is_device_lost(error)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` means that memory ran out, on the CPU (torch has no class for that) or a GPU."""
    if isinstance(error, LandscapeError):
        return False
    text = str(error)
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and ("can't allocate memory" in text or "out of memory" in text.lower())
    )
