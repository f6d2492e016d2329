"""The comparison table and the sentences under it."""

from __future__ import annotations

from typing import Any

from .screen import Screen


def show_summary(results: list[Any], screen: Screen) -> None:
    """Print one row per optimizer, mean ± standard deviation over seeds, and what follows from it."""
    from landscape.base.digits import plain, with_spread
    from landscape.figures.summary import comparison, summarize, verdict

    rows = summarize(results)

    def both(row: dict[str, Any], name: str, percent: bool) -> str:
        mean, std = row.get(f"{name}_mean"), row.get(f"{name}_std")
        if mean is None:
            return "–"
        if percent:
            return f"{100 * mean:.1f}" + ("" if std is None else f"±{100 * std:.1f}")
        return plain(mean, 2) if std is None else with_spread(mean, std, 1).replace(" ± ", "±")

    columns: list[tuple[str, str, bool]] = [
        ("train loss", "train_loss", False),
        ("test %", "test_accuracy", True),
        ("unseen %", "unseen_accuracy", True),
        ("λ_max", "lambda_max", False),
        ("m-sharp.", "m_sharpness", False),
        ("domain var.", "domain_loss_variance", False),
    ]
    table = [[r["name"], r["n_seeds"], *(both(r, name, percent) for _, name, percent in columns)] for r in rows]
    screen.table(["", "n", *(h for h, *_ in columns)], table, may_go=["domain var.", "train loss", "test %"])
    largest = max((r["lambda_max_residual"] or 0.0 for r in rows), default=0.0)
    screen.line(
        "mean ± standard deviation over n seeds (ddof 1); "
        f"largest residual of a λ_max {largest:.0e}; m-sharpness with m = {rows[0]['m_sharpness_m']}, "
        f"rho = {rows[0]['m_sharpness_rho']}; domain var.: of the seen domains' training losses"
    )
    for sentence in (*comparison(rows, results, quantities=("lambda_max", "unseen_accuracy")), verdict(rows)):
        screen.line(f"- {sentence}")
