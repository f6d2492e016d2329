from __future__ import annotations

import math

import pytest

from landscape.base.digits import plain, ratio, signed, unsigned_zero, with_interval, with_spread


@pytest.mark.parametrize(
    ("value", "spread", "told"),
    [
        (4.32, 0.3, "4.32 ± 0.30"),
        (12, 1.14, "12.0 ± 1.1"),
        (120.4, 33, "120 ± 33"),
        (0.0071, 0.0004, "0.00710 ± 0.00040"),
        (6.3e-5, 1.23e-5, "(6.3 ± 1.2)e-05"),
        (3.0, None, "3.00"),
        (-0.0001, 0.05, "0.000 ± 0.050"),
        (5.0, 0.0, "5.00 ± 0"),
        (1.0, math.nan, "1.00"),
        (2.0, 0.0996, "2.00 ± 0.10"),
        (0.0, 0.0, "0 ± 0"),
        (math.inf, 1.0, "inf ± 1.00"),
    ],
)
def test_a_spread_has_two_digits_and_decides_the_decimals(value: float, spread: float | None, told: str) -> None:
    assert with_spread(value, spread) == told


def test_no_exponents_and_no_negative_zero() -> None:
    assert [ratio(x) for x in (120.3, 1, 0.364, 12.2, 0.999, 9.96)] == ["120", "1.0", "0.36", "12", "1.0", "10"]
    assert [plain(x) for x in (9.996, 0.01234, 1234567, 1e9, -2.5, 0.0, math.nan)] == [
        "10.0", "0.0123", "1230000", "1.00e+09", "-2.50", "0", "nan",
    ]  # fmt: skip
    assert [signed(x, 1) for x in (-0.04, 0.04, 0.31, -1.0)] == ["0.0", "0.0", "+0.3", "-1.0"]
    assert unsigned_zero(-0.04, 1) == "0.0"


@pytest.mark.parametrize(
    ("numbers", "told"),
    [
        ((2.2583, 0.814, 3.702), "2.3 (0.8 to 3.7)"),
        ((0.008067, 0.0005844, 0.01555), "0.0081 (0.0006 to 0.0155)"),
        ((1234.5, 1134.0, 1335.0), "1234 (1134 to 1335)"),
        ((0.01, -0.0, 0.02), "0.010 (0.000 to 0.020)"),
        ((0.1, 0.1, 0.1), "0.100 (0.100 to 0.100)"),
    ],
)
def test_an_interval_has_the_digits_that_its_width_allows(numbers: tuple[float, float, float], told: str):
    assert with_interval(*numbers) == told
