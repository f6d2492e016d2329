"""What a long eigenvalue run says while it runs: how many products it will take, and that it goes on."""

from __future__ import annotations

import math

import torch
from cases import domain_data, problem_of, small_mlp

import landscape
from landscape.base.progress import Forecast


def test_a_residual_that_falls_as_a_power_is_foretold():
    forecast, known = Forecast(), []
    for products in range(2, 40, 2):
        known.append(forecast.total(products, 10 ** (-products / 10), 1e-4, 1000))
    assert known[:3] == [None] * 3  # too early
    assert all(total in (40, 41) for total in known[3:])


def test_nothing_is_foretold_of_a_residual_that_stands_still():
    forecast = Forecast()
    assert {forecast.total(k, 1.0 + 0.01 * k, 1e-3, 100) for k in range(10)} == {None}
    assert forecast.total(11, 0.0, 1e-3, 100) is None


def test_never_more_than_the_budget():
    forecast = Forecast()
    found = [forecast.total(k, math.exp(-k / 1000), 1e-9, 50) for k in range(1, 50)]
    assert set(found[4:]) == {50}


def seen_by(**options: object) -> list[tuple[str, int, int | None]]:
    seen = []
    problem = problem_of(small_mlp(), domain_data())
    with landscape.reporting(lambda task, done, total, note: seen.append((task, done, total))):
        landscape.hessian(problem, **options)
    return seen


def test_every_product_is_reported_and_totals_are_ahead_of_what_is_done():
    seen = seen_by(top=3, tol=1e-4, trace=True, density=True, block=1)
    tasks = {task for task, _, _ in seen}
    assert {"eigenvalues", "missed copies", "density", "trace"} <= tasks
    for task in tasks:
        reports = [(done, total) for t, done, total in seen if t == task]
        assert all(done <= total for done, total in reports if total is not None), task
        assert reports[-1][0] == reports[-1][1], f"{task} ends"
    assert any(total is not None and total > done for t, done, total in seen if t == "eigenvalues")


def test_sketches_report_their_products():
    for method in ("hutch++", "xtrace"):
        products = [done for task, done, _ in seen_by(top=1, trace=True, trace_method=method) if task == "trace"]
        assert len(products) > 10
        assert products == sorted(products)


def test_vectors_have_the_precision_of_their_products_or_are_left_out():
    problem = problem_of(small_mlp().float(), domain_data(), dtype="float32")
    found = landscape.hessian(problem, top=2, diagonal=True)
    assert {t.dtype for t in found.vectors.values()} == {torch.float32}
    rows = torch.stack(
        [torch.cat([t.flatten() for k, t in found.vectors.items() if k[:3] == f"v{i}."]) for i in (1, 2)]
    )
    torch.testing.assert_close(rows @ rows.T, torch.eye(2), rtol=0, atol=1e-6)
    without = landscape.hessian(problem, top=2, diagonal=True, vectors=False)
    assert {k.partition(".")[0] for k in without.vectors} == {"diagonal", "diagonal_stderr"}
    assert without["eigenvalues"] == found["eigenvalues"]
    assert landscape.hessian(problem, top=2, vectors=False).vectors == {}
