"""The rows of a sharpness result as labelled arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Row = Mapping[str, Any]


def dataset(rows: Sequence[Row], domains: Mapping[str, Sequence[Row]] | None) -> Any:
    """All rows as columns over ``row``; m-sharpness also as ``value``, ``stderr``, ``n_blocks`` over ``(m, rho)``.

    With domains, ``domain_value`` over ``(domain, m, rho)``.
    """
    import xarray as xr

    def column(field: str) -> Any:
        return np.array([np.nan if r[field] is None else r[field] for r in rows], dtype=float)

    variables: dict[str, Any] = {
        "measure": ("row", np.array([r["measure"] for r in rows], dtype=str)),
        "row_value": ("row", column("value")),
        "row_stderr": ("row", column("stderr")),
        "row_m": ("row", column("m")),
        "row_rho": ("row", column("rho")),
    }
    coordinates: dict[str, Any] = {}
    grid = [r for r in rows if r["measure"] == "m-sharpness"]
    if grid:
        sizes, rhos = list(dict.fromkeys(r["m"] for r in grid)), list(dict.fromkeys(r["rho"] for r in grid))
        coordinates = {"m": sizes, "rho": rhos}

        def table(some: Sequence[Row], field: str) -> Any:
            out = np.full((len(sizes), len(rhos)), np.nan)
            for r in some:
                if r["measure"] == "m-sharpness" and r["m"] in sizes and r[field] is not None:
                    out[sizes.index(r["m"]), rhos.index(r["rho"])] = r[field]
            return out

        variables |= {f: (("m", "rho"), table(grid, f)) for f in ("value", "stderr", "n_blocks")}
        if domains:
            coordinates["domain"] = list(domains)
            stacked = np.stack([table(r, "value") for r in domains.values()])
            variables["domain_value"] = (("domain", "m", "rho"), stacked)
    return xr.Dataset(variables, coordinates)
