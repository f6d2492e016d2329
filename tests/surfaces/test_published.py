"""The published ResNet-20 on its own training images: its curvature is seen in three points of a slice."""

from __future__ import annotations

import numpy as np
import pytest
from curvature.test_published import problem_of, pytestmark

from landscape.surfaces.surface import surface

__all__ = ["pytestmark"]  # slow, and only where the checkpoint is


@pytest.mark.parametrize(("case", "step", "error"), [
    ("resnet20-head", 1e-4, 1e-2),
    # Along all parameters ReLUs switch between the points. Their kinks are no part of a Hessian, and do not average
    # out: at step 1e-4 three points along its first eigenvector show 13 %, 13 % and 8 % less than the eigenvalue of
    # 32, 128 and 512 training images, and 6 % more than that of 2,048. Within 1e-6 there is none.
    ("resnet20", 1e-6, 1e-3),
])  # fmt: skip
def test_three_points_along_a_unit_eigenvector_show_its_eigenvalue(case: str, step: float, error: float):
    problem = problem_of(case, "float64").restrict_to_examples(np.arange(32))
    found = surface(problem, dim=1, points=3, range=step, direction=("eigvec:1",))
    below, centre, above = found.data["loss"].values
    assert (below - 2 * centre + above) / step**2 == pytest.approx(found["axes"][0]["eigenvalue"], rel=error)
    assert found["axes"][0]["norm"] == pytest.approx(1)
    assert found["restored"] is True
