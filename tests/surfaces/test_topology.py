from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from landscape.surfaces.topology import basins, describe

EIGHT = np.ones((3, 3))


def components(height, level: float) -> int:
    return int(ndimage.label(height <= level, structure=EIGHT)[1])


@pytest.mark.parametrize("seed", range(6))
def test_basins_alive_at_a_level_are_the_components_of_the_sublevel_set(seed: int):
    rng = np.random.default_rng(seed)
    height = ndimage.gaussian_filter(rng.standard_normal((17, 12)), 1.0 if seed % 2 else 0)
    if seed == 5:
        height = np.round(3 * height)  # plateaus
    found = basins(height)
    for level in np.unique(height):
        alive = sum(b.birth <= level < b.death for b in found)
        assert alive == components(height, level)
    assert found[0].birth == height.min()
    assert np.isinf(found[0].persistence)
    assert all(height[b.minimum] == b.birth for b in found)
    assert all(b.saddle is None or height[b.saddle] == b.death for b in found)
    assert all(b.into is None or height[b.into] <= b.birth for b in found)


def test_two_wells_by_hand():
    height = np.array([[5, 5, 5, 5, 5], [5, 0, 3, 1, 5], [5, 5, 5, 5, 5]], dtype=float)
    deep, shallow = basins(height)
    assert (deep.birth, deep.death, deep.minimum, deep.into) == (0, np.inf, (1, 1), None)
    assert (shallow.birth, shallow.death, shallow.saddle, shallow.into) == (1, 3, (1, 2), (1, 1))
    assert shallow.persistence == 2


def test_walls_of_infinity_keep_basins_apart():
    height = np.array([[0.0, np.inf, 1.0], [0.5, np.nan, 2.0]])
    found = basins(height)
    assert [(b.birth, b.death) for b in found] == [(0.0, np.inf), (1.0, np.inf)]


def test_roughness_in_decades():
    bowl = 1 + np.add.outer(np.arange(-3, 4) ** 2, np.arange(-3, 4) ** 2).astype(float)
    assert describe(bowl)["roughness"] == 0
    assert describe(bowl)["minima"] == 1
    bowl[0, 0] = 0.01
    assert describe(bowl)["minima"] == 2
    assert describe(bowl)["roughness"] == pytest.approx(np.log10(9))  # from 1 up to the lowest way out, 1 + 4 + 4
    assert "log10 loss" in describe(bowl)["definition"]
    assert "of the loss" in describe(bowl - 5)["definition"]
    assert describe(np.full((3, 3), np.nan)) == {**describe(np.full((3, 3), np.nan)), "minima": 0, "roughness": None}
