"""From the sums of forward passes to named arrays: every quantity that one pass gives, at every point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...problem.problem import Problem

Variables = dict[str, Any]


def point_metrics(
    problem: Problem, sums: Any, dims: Sequence[str], wanted: Sequence[str], test: Problem | None = None
) -> tuple[Variables, dict[str, list[str]]]:
    """Losses and accuracies, pooled, per domain and over domains.

    Args:
        problem: Says which domains there are.
        sums: As `landscape.problem.evaluation.batch_sums` gives them, ``(*dims, 5, domains)``; with a test split its
            domains follow as further columns.
        dims: Names of the leading dimensions.
        wanted: Names among `landscape.specs.surface.FORWARD_METRICS` and ``TEST_METRICS``.
        test: The problem of the test split, if its sums are there.

    Returns:
        Variables for an xarray dataset, and coordinates. The pooled loss is Σ n_i L_i / n, ``domain_mean``
        (1/M) Σ L_i, ``domain_variance`` uniform over domains with ddof 0; ``worst_domain`` is the index of the
        largest domain loss, -1 where none is finite. NaN and infinities stay what they are.
    """
    columns = len(problem.examples.domain_names)
    variables = _of_split(problem, sums[..., :columns], dims)
    coordinates = {"domain": problem.present_domains()} if problem.present_domains() else {}
    if test is not None:
        tested = _of_split(test, sums[..., columns:], dims, "test_")
        if test.present_domains():
            coordinates["test_domain"] = test.present_domains()
        variables |= {k: v for k, v in tested.items() if k in ("test_loss", "test_accuracy", "test_domain_loss")}
    names = {w.replace("-", "_") for w in wanted}
    if "worst_domain" in names:
        names.add("worst_domain_loss")
    return {k: v for k, v in variables.items() if k in names}, coordinates


def _of_split(problem: Problem, sums: Any, dims: Sequence[str], prefix: str = "") -> Variables:
    losses, right, weights, _, trials = np.moveaxis(sums, -2, 0)
    found: Variables = {}
    with np.errstate(invalid="ignore", divide="ignore"):
        found["loss"] = (tuple(dims), losses.sum(-1) / weights.sum(-1))
        classified = not np.isnan(right).all()
        if classified:
            found["accuracy"] = (tuple(dims), right.sum(-1) / trials.sum(-1))
        present = problem.present_domains()
        if present:
            columns = [problem.examples.domain_index(d) for d in present]
            per_domain = np.moveaxis(losses[..., columns] / weights[..., columns], -1, 0)
            own = (f"{prefix}domain", *dims)
            found["domain_loss"] = (own, per_domain)
            if classified:
                found["domain_accuracy"] = (own, np.moveaxis(right[..., columns] / trials[..., columns], -1, 0))
            found["domain_mean"] = (tuple(dims), per_domain.mean(0))
            found["domain_variance"] = (tuple(dims), per_domain.var(0))
            finite = np.where(np.isnan(per_domain), -np.inf, per_domain)
            lost = np.isneginf(finite).all(0)
            found["worst_domain"] = (tuple(dims), np.where(lost, -1, finite.argmax(0)))
            found["worst_domain_loss"] = (tuple(dims), np.where(lost, np.nan, finite.max(0)))
    return {prefix + k: v for k, v in found.items()}
