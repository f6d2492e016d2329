from __future__ import annotations

import pytest

# Trains in a fraction of a second: 120 examples of three Gaussian domains, eight hidden units.
TINY = """
name = "tiny"
title = "A study that takes seconds"
[train]
data = "gaussian-domains"
data_arg = ["n=40"]
model = "mlp"
model_arg = ["hidden=[8]"]
steps = 6
batch_size = 16
[grid]
optimizer = ["sgd", "sam"]
lr = [0.05, 0.2]
[seeds]
init = [0, 1, 2]
[[analyses]]
kind = "sharpness"
measure = ["m-sharpness", "weight-norm"]
m = [8]
rho = [0.1]
[report]
bootstrap = 100
permutations = 20
"""


@pytest.fixture
def tiny() -> str:
    return TINY
