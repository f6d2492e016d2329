"""What is looked at for every model costs, as a share of the analysis that it stands before.

    python tests/benchmarks checks [--repeat 9] [--short] [--out gallery/benchmarks]

Work: `landscape.hessian` and `landscape.sharpness` as their commands run them without flags, from the network to the
result, float32, one thread. Checks: making the `Problem` (whose copy of the network is counted in, since it cannot be
told apart from its comparison) and comparing derivatives with differences. Limit: a twentieth of the whole.
"""

from __future__ import annotations

from typing import Any

from harness import bar, beside_stored, interleaved, options, publish, ratio, table
from networks import Work, chosen

import landscape
from landscape.problem.checks.derivatives import derivatives

MOST = 0.05


def measure(work: Work, repeat: int) -> dict[str, Any]:
    """Time of the checks over that of the whole, for both analyses."""
    loss = "cross_entropy" if work.targets.ndim == 1 else "token_cross_entropy"

    def made() -> landscape.Problem:
        return landscape.Problem(work.model, (work.inputs, work.targets), loss, device="cpu")

    seconds = interleaved(
        {
            "checks of hessian": lambda: derivatives(made(), product=True),
            "hessian": lambda: landscape.hessian(made(), allow_partial=True),
            "checks of sharpness": lambda: derivatives(made()),
            "sharpness": lambda: landscape.sharpness(made()),
        },
        repeat,
    )
    shares = {name: ratio(seconds[f"checks of {name}"], seconds[name]) for name in ("hessian", "sharpness")}
    return {"network": work.name, "examples": len(work.targets), "shares": shares}


def main() -> None:
    """Measure, print, store."""
    asked = options(__doc__, 9)
    works = chosen(asked.short, asked.only).values()
    rows = beside_stored(asked.out, "checks", [measure(work, asked.repeat) for work in works])
    shown = [
        [r["network"], name, *(f"{100 * share[k]:.1f} %" for k in ("least", "median", "most"))]
        for r in rows
        for name, share in r["shares"].items()
    ]
    text = table(["network", "analysis", "checks / whole, min", "median", "max"], shown)
    lines = [
        bar(f"checks of every model, {name}, {r['network']}", floor=share, most=MOST, unit="of the whole")
        for r in rows
        for name, share in r["shares"].items()
    ]
    publish(asked.out, "checks", "What is looked at for every model", text, {"rows": rows, "headline": lines})


if __name__ == "__main__":
    main()
