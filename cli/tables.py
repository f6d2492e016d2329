"""The comparison table and the sentences under it."""

from __future__ import annotations

from typing import Any

from .screen import Screen


def show_summary(results: list[Any], screen: Screen) -> None:
    """Print one row per optimizer, mean ± standard deviation over seeds, and what follows from it."""
    from landscape.figures.summary import comparison, summarize, verdict

    rows = summarize(results)

    def both(row: dict[str, Any], name: str, scale: float, digits: str) -> str:
        mean, std = row.get(f"{name}_mean"), row.get(f"{name}_std")
        if mean is None:
            return "–"
        shown = f"{scale * mean:{digits}}"
        if std is None:
            return shown
        return f"{shown}±{scale * std:{digits if digits.endswith('f') else '.1g'}}"

    columns: list[tuple[str, str, float, str]] = [
        ("train loss", "train_loss", 1, ".2g"),
        ("test %", "test_accuracy", 100, ".1f"),
        ("unseen %", "unseen_accuracy", 100, ".1f"),
        ("λ_max", "lambda_max", 1, ".2g"),
        ("m-sharp.", "m_sharpness", 1, ".2g"),
        ("domain var.", "domain_loss_variance", 1, ".1g"),
    ]
    table = [
        [r["label"], r["n_seeds"], *(both(r, name, scale, digits) for _, name, scale, digits in columns)]
        for r in rows
    ]
    screen.table(["", "n", *(h for h, *_ in columns)], table)
    largest = max((r["lambda_max_residual"] or 0.0 for r in rows), default=0.0)
    screen.line(
        "mean ± standard deviation over n seeds (ddof 1); "
        f"largest residual of a λ_max {largest:.0e}; m-sharpness with m = {rows[0]['m_sharpness_m']}, "
        f"rho = {rows[0]['m_sharpness_rho']}; domain var.: of the seen domains' training losses"
    )
    for sentence in (*comparison(rows, results, quantities=("lambda_max", "unseen_accuracy")), verdict(rows)):
        screen.line(f"- {sentence}")
