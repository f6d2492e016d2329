"""A number with its uncertainty.

Sampling ends when the standard error is small enough: when the 95 % interval (Student's t) is as narrow as it would
be for many samples of the standard error that was asked for, since few samples hardly know their own spread. It never
ends because a running mean has settled, which it does whatever its error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

LEAST_SAMPLES = 10
_NORMAL = 1.96  # half of a 95 % interval, in standard errors of many samples


@dataclass(frozen=True)
class Estimate:
    """A number with its uncertainty.

    Attributes:
        estimate: The value.
        stderr: Standard error (ddof 1); 0 if it is exact.
        interval: 95 % confidence interval, from Student's t.
        samples: Independent samples in it.
        products: Products that it took beyond what was known.
        converged: Whether the interval is as narrow as the relative standard error that was asked for makes it.
        method: How it was made.
    """

    estimate: float
    stderr: float
    interval: tuple[float, float]
    samples: int
    products: int
    converged: bool
    method: str

    @classmethod
    def of(cls, samples: object, *, products: int, rtol: float, method: str, offset: float = 0.0) -> Estimate:
        """From independent samples, added to ``offset``."""
        values = np.asarray(samples, dtype=float)
        mean = offset + float(values.mean())
        stderr = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("inf")
        half = _student(len(values) - 1) * stderr if len(values) > 1 else float("inf")
        reached = half <= _NORMAL * rtol * abs(mean)
        return cls(mean, stderr, (mean - half, mean + half), len(values), products, reached, method)

    @classmethod
    def jackknife(
        cls, value: float, without: object, *, samples: int, products: int, rtol: float, method: str
    ) -> Estimate:
        """From a statistic of dependent parts, and the same with each of G groups of them left out."""
        left = np.asarray(without, dtype=float)
        stderr = float(np.sqrt((len(left) - 1) / len(left) * ((left - left.mean()) ** 2).sum()))
        half = _student(len(left) - 1) * stderr
        reached = half <= _NORMAL * rtol * abs(value)
        return cls(value, stderr, (value - half, value + half), samples, products, reached, method)

    @classmethod
    def exact(cls, value: float, products: int) -> Estimate:
        """A value without error."""
        return cls(value, 0.0, (value, value), products, products, True, "exact")

    def record(self) -> dict[str, Any]:
        """For the record."""
        return {
            "estimate": self.estimate,
            "stderr": self.stderr,
            "interval": list(self.interval),
            "samples": self.samples,
            "hvp_count": self.products,
            "converged": self.converged,
            "method": self.method,
        }


def _student(degrees: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.975))
