from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import (
    Coordinates,
    assert_untouched,
    dense,
    domain_data,
    mean_cross_entropy,
    problem_of,
    small_mlp,
    snapshot,
)

from landscape.domainwise.domains import domains


@pytest.mark.parametrize("loss", ["cross_entropy", mean_cross_entropy])
def test_everything_by_hand(loss):
    data, model = domain_data(), small_mlp()
    found = domains(problem_of(model, data, loss, batch_size=8))
    losses = np.array([F.cross_entropy(model(x), y).item() for x, y in data.values()])
    gradients = torch.stack([dense(model, x, y)[1] for x, y in data.values()]).numpy()
    norms = np.linalg.norm(gradients, axis=1)
    assert [d["loss"] for d in found["domains"].values()] == pytest.approx(losses.tolist(), rel=1e-13)
    assert [d["n"] for d in found["domains"].values()] == [9, 20, 13]
    assert [d["accuracy"] for d in found["domains"].values()] == [
        (model(x).argmax(1) == y).double().mean().item() for x, y in data.values()
    ]
    assert [d["gradient_norm"] for d in found["domains"].values()] == pytest.approx(norms.tolist(), rel=1e-12)
    assert found["loss_mean"] == pytest.approx(losses.mean(), rel=1e-13)
    assert found["loss_variance"] == pytest.approx(((losses - losses.mean()) ** 2).sum() / 3, rel=1e-12)
    assert found["loss_range"] == pytest.approx(losses.max() - losses.min(), rel=1e-12)
    assert found["loss"] == pytest.approx(
        losses @ [9, 20, 13] / 42, rel=1e-13
    )  # examples, not domains, weigh equally
    assert found["unseen_loss_mean"] is None
    assert found["gradient_cosine"]["names"] == list(data)
    assert np.array(found["gradient_cosine"]["matrix"]) == pytest.approx(
        gradients @ gradients.T / np.outer(norms, norms), abs=1e-12
    )
    table = found.data["gradient_cosine"]
    assert table.dims == ("domain", "other")
    assert float(table.sel(domain="art", other="photo")) == found["gradient_cosine"]["matrix"][0][2]


def test_spread_is_over_the_seen_domains_only():
    data, model = domain_data(), small_mlp()
    found = domains(problem_of(model, data, unseen=["photo"]))
    losses = {k: F.cross_entropy(model(x), y).item() for k, (x, y) in data.items()}
    seen = [losses["art"], losses["cartoon"]]
    assert {k: d["seen"] for k, d in found["domains"].items()} == {"art": True, "cartoon": True, "photo": False}
    assert found["loss_mean"] == pytest.approx(np.mean(seen), rel=1e-12)
    assert found["loss_variance"] == pytest.approx((seen[0] - seen[1]) ** 2 / 4, rel=1e-10)
    assert found["loss_range"] == pytest.approx(abs(seen[0] - seen[1]), rel=1e-10)
    assert found["unseen_loss_mean"] == pytest.approx(losses["photo"], rel=1e-12)
    assert len(found["gradient_cosine"]["matrix"]) == 3


def test_one_seen_domain_has_no_variance():
    found = domains(problem_of(small_mlp(), domain_data(), unseen=["photo", "cartoon"]))
    assert found["loss_variance"] == 0
    assert found["loss_range"] == 0


def test_no_seen_domain_has_none_of_them():
    found = domains(problem_of(small_mlp(), domain_data(), unseen=["photo", "cartoon", "art"]))
    assert (found["loss_mean"], found["loss_variance"], found["loss_range"]) == (None, None, None)
    assert found["unseen_loss_mean"] == pytest.approx(np.mean([d["loss"] for d in found["domains"].values()]))


def test_data_without_domains_counts_as_one():
    x, y = domain_data((17,))["art"]
    found = domains(problem_of(small_mlp(), (x, y)))
    assert list(found["domains"]) == ["all"]
    assert found["gradient_cosine"]["matrix"] == [[pytest.approx(1)]]


def test_opposite_gradients_and_a_zero_one():
    """Domain losses w0, -w0 and 0: cosine -1, and undefined with a zero gradient (null in JSON, NaN in the array)."""
    zeros = torch.zeros(2).double()
    data = {
        "up": (torch.full((2, 1), 1.0).double(), zeros + 1),
        "down": (torch.zeros(2, 1).double(), zeros - 1),
        "flat": (torch.zeros(2, 1).double(), zeros),
    }
    found = domains(problem_of(Coordinates(torch.ones(1, 2).double()), data, lambda o, t: o[:, 0] * t))
    assert found["gradient_cosine"]["matrix"] == [[1, -1, None], [-1, 1, None], [None, None, None]]
    assert np.isnan(found.data["gradient_cosine"].values[2]).all()
    assert [d["accuracy"] for d in found["domains"].values()] == [None] * 3
    json.dumps(found.to_json(), allow_nan=False)


def test_the_model_is_left_alone():
    model = small_mlp()
    model(torch.ones(2, 5).double()).sum().backward()
    before = snapshot(model)
    domains(problem_of(model, domain_data()))
    assert_untouched(model, before)


def test_the_interval_of_a_loss_is_over_the_examples_that_count():
    model, (x, y) = small_mlp(), domain_data((30,))["art"]
    kept = torch.arange(len(y)) % 3 != 1
    loss = torch.nn.CrossEntropyLoss()
    found, alone = (
        domains(problem_of(model, data, loss))["domains"]["all"]
        for data in ((x, y.where(kept, -100)), (x[kept], y[kept]))
    )
    for name in ("loss", "loss_low", "loss_high", "accuracy", "accuracy_low", "accuracy_high"):
        assert found[name] == pytest.approx(alone[name], rel=1e-9), name
