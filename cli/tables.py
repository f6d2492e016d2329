"""The comparison table and the sentences under it."""

from __future__ import annotations

from typing import Any

from .screen import Screen, number


def show_summary(results: list[Any], screen: Screen) -> None:
    """Print one row per optimizer, mean ± standard deviation over seeds, and what follows from it."""
    from landscape.figures.summary import comparison, summarize

    rows = summarize(results)

    def both(row: dict[str, Any], name: str, show: Any) -> str:
        mean, std = row.get(f"{name}_mean"), row.get(f"{name}_std")
        if mean is None:
            return "–"
        return show(mean) if std is None else f"{show(mean)} ± {show(std)}"

    columns = [
        ("train loss", "train_loss", lambda v: number(v, 2)),
        ("test acc", "test_accuracy", lambda v: f"{100 * v:.1f}"),
        ("unseen acc", "unseen_accuracy", lambda v: f"{100 * v:.1f}"),
        ("lambda_max", "lambda_max", lambda v: number(v, 2)),
        ("m-sharpness", "m_sharpness", lambda v: number(v, 2)),
        ("domain var.", "domain_loss_variance", lambda v: number(v, 1)),
    ]
    table = [[r["label"], r["n_seeds"], *(both(r, name, show) for _, name, show in columns)] for r in rows]
    screen.table(["", "n", *(h for h, _, _ in columns)], table)
    screen.line("mean ± standard deviation over n seeds (ddof 1); accuracies in %")
    for sentence in comparison(rows, results):
        screen.line(f"- {sentence}")
