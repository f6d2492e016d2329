"""Numbers for people: as many digits as are known, never "-0.0", never "1.2e+02"."""

from __future__ import annotations

import math


def plain(value: float, digits: int = 3) -> str:
    """``value`` with so many significant digits, without an exponent where it is not needed: ``120``, ``0.0123``."""
    if not math.isfinite(value):
        return f"{value:g}"
    if value == 0:
        return "0"
    power = math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}"))))
    if not -5 < power < 7:
        return f"{value:.{digits - 1}e}"
    return f"{round(value, digits - 1 - power):.{max(digits - 1 - power, 0)}f}"


def with_spread(value: float, spread: float | None, digits: int = 2) -> str:
    """``value ± spread``, the spread with so many digits and the value with as many decimals: ``4.32 ± 0.30``.

    Without a spread, or one that says nothing of the digits, the value has three significant digits.
    """
    if spread is None or not math.isfinite(spread):
        return plain(value)
    if spread == 0 or not math.isfinite(value):
        return f"{plain(value)} ± {plain(spread)}"
    power = math.floor(math.log10(float(f"{spread:.{digits - 1}e}")))
    largest = max(abs(value), spread)
    if largest < 1e-3 or largest >= 1e6:
        scale = math.floor(math.log10(largest))
        decimals = max(scale - power + digits - 1, digits - 1)
        return f"({value / 10**scale:.{decimals}f} ± {spread / 10**scale:.{decimals}f})e{scale:+03d}"
    decimals = max(digits - 1 - power, 0)
    return f"{unsigned_zero(value, decimals)} ± {spread:.{decimals}f}"


def with_interval(value: float, low: float, high: float) -> str:
    """``value (low to high)``, all with the decimals that half the width has in two digits: ``2.3 (0.8 to 3.7)``."""
    half = (high - low) / 2
    if not (math.isfinite(half) and math.isfinite(value)) or half <= 0:
        return f"{plain(value)} ({plain(low)} to {plain(high)})"
    power = math.floor(math.log10(float(f"{half:.1e}")))
    if not -5 < power < 6:
        return f"{value:.2e} ({low:.2e} to {high:.2e})"
    decimals = max(1 - power, 0)
    told = [unsigned_zero(v, decimals) for v in (value, low, high)]
    return f"{told[0]} ({told[1]} to {told[2]})"


def signed(value: float, decimals: int) -> str:
    """With its sign and so many decimals; what rounds to zero has none: ``+0.3``, ``0.0``."""
    told = f"{value:+.{decimals}f}"
    return told if float(told) else told[1:]


def unsigned_zero(value: float, decimals: int) -> str:
    """With so many decimals; what rounds to zero has no sign."""
    told = f"{value:.{decimals}f}"
    return told if float(told) else told.lstrip("-")


def ratio(value: float) -> str:
    """How many times: ``0.36``, ``1.0``, ``12``, ``120``."""
    return plain(value, 2)
