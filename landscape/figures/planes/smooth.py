"""Grids made fine for drawing: smooth between the points, equal to the stored values at them."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...base.arrays import Flags, Floats

FINE = 161  # points of the longer side


def smooth(x: object, y: object, height: object, points: int = FINE) -> tuple[Any, Any, Any]:
    """A grid interpolated for drawing by piecewise cubic curves (Akima's, modified) along y, then along x.

    Where two neighbouring points enclose a value, no value between them leaves what the four points around them
    span, so no valley is drawn that was not measured. Cells that touch a value that is not finite stay empty.

    Args:
        x: ``(w,)``, increasing.
        y: ``(h,)``, increasing.
        height: ``(h, w)``.
        points: About how many points the longer side gets.

    Returns:
        Fine x ``(v,)``, y ``(u,)`` and height ``(u, v)``; every given x and y is among them.
    """
    x, y, height = (np.asarray(a, dtype=float) for a in (x, y, height))
    known = np.isfinite(height)
    if not known.any() or min(height.shape) < 2:
        return x, y, height
    times = max(1, round((points - 1) / (max(height.shape) - 1)))
    if times == 1:
        return x, y, height
    fine_x, fine_y = _between(x, times), _between(y, times)
    filled = _filled(height, known)
    found = _along(y, _along(x, filled.T, fine_x).T, fine_y)
    if not known.all():
        cells = known[:-1, :-1] & known[1:, :-1] & known[:-1, 1:] & known[1:, 1:]
        beside = [cells[np.ix_(i, j)] for i in _cells(len(y), times) for j in _cells(len(x), times)]
        found = np.where(np.any(beside, axis=0), found, np.nan)
    return fine_x, fine_y, found


def _between(places: Floats, times: int) -> Any:
    share = np.arange(times) / times
    inside = (places[:-1, None] + share * np.diff(places)[:, None]).ravel()
    return np.append(inside, places[-1])


def _cells(points: int, times: int) -> tuple[Any, Any]:
    """For each fine point the cell that it begins or lies in, and the one that it ends or lies in."""
    fine = np.arange((points - 1) * times + 1)
    return np.minimum(fine // times, points - 2), np.maximum(-(-fine // times) - 1, 0)


def _along(places: Floats, values: Floats, fine: Any) -> Any:
    """Interpolate the first axis of ``values``; every piece stays within its two ends and their neighbours."""
    from scipy.interpolate import Akima1DInterpolator, PchipInterpolator

    if len(places) < 4:
        return PchipInterpolator(places, values, axis=0)(fine)
    found = Akima1DInterpolator(places, values, axis=0)(fine)
    piece = np.clip(np.searchsorted(places, fine, side="right") - 1, 0, len(places) - 2)
    around = np.stack([values[np.clip(piece + k, 0, len(places) - 1)] for k in (-1, 0, 1, 2)])
    return np.clip(found, around.min(0), around.max(0))


def _filled(height: Floats, known: Flags) -> Any:
    """The grid with the nearest finite value where there is none, for the curves to pass."""
    from scipy.ndimage import distance_transform_edt

    if known.all():
        return height
    nearest = distance_transform_edt(~known, return_distances=False, return_indices=True)
    return height[tuple(nearest)]
