"""Domains looked at closely: intervals, weights, conflict, curvature, sharpness across domains, curves."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import assert_untouched, dense, domain_data, problem_of, small_mlp, snapshot
from scipy import stats
from torch import nn

from landscape.base.errors import UsageError
from landscape.data.examples import Examples
from landscape.domainwise.domains import domains
from landscape.domainwise.metrics import conflict, disam_weights
from landscape.measures.sharpness import sharpness
from landscape.numerics.intervals import mean_interval, share_interval
from landscape.specs import DomainsSpec


def test_intervals_against_scipy():
    values = np.random.default_rng(0).random(17)
    expected = stats.t.interval(0.95, 16, values.mean(), stats.sem(values))
    assert mean_interval(values.mean(), stats.sem(values), 17) == pytest.approx(expected, rel=1e-9)
    assert mean_interval(0.3, None, 1) == (None, None)
    for hits, n in ((0, 5), (3, 10), (98, 100), (7, 7)):
        found = stats.binomtest(hits, n).proportion_ci(method="wilson")
        assert share_interval(hits / n, n) == pytest.approx((found.low, found.high), abs=1e-12)
    assert share_interval(None, 3) == (None, None)


def test_intervals_of_each_domain_are_over_its_examples():
    data, model = domain_data(), small_mlp()
    table = domains(problem_of(model, data))["domains"]
    for name, (x, y) in data.items():
        losses = F.cross_entropy(model(x), y, reduction="none").detach().numpy()
        low, high = stats.t.interval(0.95, len(y) - 1, losses.mean(), stats.sem(losses))
        assert (table[name]["loss_low"], table[name]["loss_high"]) == pytest.approx((low, high), rel=1e-9)
        hits = int((model(x).argmax(1) == y).sum())
        found = stats.binomtest(hits, len(y)).proportion_ci(method="wilson")
        assert (table[name]["accuracy_low"], table[name]["accuracy_high"]) == pytest.approx(tuple(found), abs=1e-12)


def test_disam_weights_are_its_formula_and_its_gradient():
    """Σ beta_i ∇L_i is the gradient of L − lambda·Var over the seen domains (arXiv 2405.18861, Eq. 6)."""
    data, model = domain_data(), small_mlp()
    found = domains(problem_of(model, data, unseen=["cartoon"]), lam=0.7)
    weights = {n: d["disam_weight"] for n, d in found["domains"].items()}
    assert weights["cartoon"] is None
    assert weights["art"] + weights["photo"] == pytest.approx(1, rel=1e-12)
    parts = [data["art"], data["photo"]]
    losses = torch.stack([F.cross_entropy(model(x), y) for x, y in parts])
    whole = (9 * losses[0] + 13 * losses[1]) / 22 - 0.7 * ((losses - losses.mean()) ** 2).mean()
    expected = nn.utils.parameters_to_vector(torch.autograd.grad(whole, list(model.parameters())))
    gradients = [dense(model, x, y)[1] for x, y in parts]
    mixed = weights["art"] * gradients[0] + weights["photo"] * gradients[1]
    assert mixed.numpy() == pytest.approx(expected.numpy(), rel=1e-9)


def test_a_negative_disam_weight_is_said():
    table = {
        "easy": {"seen": True, "loss": 0.1, "weight": 90},
        "hard": {"seen": True, "loss": 3.1, "weight": 10},
    }
    weights, notes = disam_weights(table, 0.5)
    assert weights == pytest.approx({"easy": 0.9 + 0.5 * 1.5, "hard": 0.1 - 0.5 * 1.5})
    assert "negative for hard" in notes[0]
    assert disam_weights(table, 0.0) == ({"easy": 0.9, "hard": 0.1}, [])


def test_conflict_counts_pairs_with_a_negative_cosine():
    matrix = np.array([[1, -0.2, 0.3, np.nan], [-0.2, 1, -0.1, np.nan], [0.3, -0.1, 1, np.nan], [np.nan] * 4])
    assert conflict(matrix) == {"pairs": 3, "conflicting": 2, "share": pytest.approx(2 / 3)}
    assert conflict(np.ones((1, 1))) == {"pairs": 0, "conflicting": 0, "share": None}


def test_worst_domain_and_conflict_are_of_the_seen_domains():
    data, model = domain_data(), small_mlp()
    losses = {k: F.cross_entropy(model(x), y).item() for k, (x, y) in data.items()}
    worst = max(losses, key=lambda k: losses[k])
    assert domains(problem_of(model, data))["worst_domain"]["loss"] == worst
    rest = domains(problem_of(model, data, unseen=[worst]))
    assert rest["worst_domain"]["loss"] == max((k for k in losses if k != worst), key=lambda k: losses[k])
    assert (rest["conflict"]["pairs"], rest["conflict_all"]["pairs"]) == (1, 3)


def test_sharpness_across_domains_by_hand():
    data, model = domain_data(), small_mlp()
    problem = problem_of(model, data, unseen=["photo"])
    before = snapshot(problem.model)
    found = domains(problem, sharpness=True, rho=0.3, m=4)
    assert_untouched(problem.model, before)
    cross = found["cross_sharpness"]
    assert cross["sources"] == ["art", "cartoon", "photo", "seen"]
    gradients = {k: dense(model, x, y)[1] for k, (x, y) in data.items()}
    gradients["seen"] = (9 * gradients["art"] + 20 * gradients["cartoon"]) / 29
    flat = nn.utils.parameters_to_vector(model.parameters()).detach()
    moved = {}
    for i, source in enumerate(cross["sources"]):
        g = gradients[source]
        nn.utils.vector_to_parameters(flat + 0.3 * g / g.norm(), model.parameters())
        moved[source] = [F.cross_entropy(model(x), y).item() for x, y in data.values()]
        nn.utils.vector_to_parameters(flat, model.parameters())
        rises = [
            m - F.cross_entropy(model(x), y).item() for m, (x, y) in zip(moved[source], data.values(), strict=True)
        ]
        assert cross["matrix"][i] == pytest.approx(rises, rel=1e-8)
        assert found.data["cross_sharpness"].values[i] == pytest.approx(rises, rel=1e-8)
    assert found["perturbed"]["loss_variance"] == pytest.approx(np.var(moved["seen"][:2]), rel=1e-9)
    for i, (name, pair) in enumerate(data.items()):
        alone = sharpness(
            problem_of(model, {name: pair}), measure=("m-sharpness", "gradient-variance"), m=(4,), rho=(0.3,)
        )
        row = found["domains"][name]
        assert [row["m_sharpness"], row["gradient_variance"]] == pytest.approx(
            [r["value"] for r in alone["measures"]], rel=1e-9
        )
        # A domain's own ascent is one block of all of it.
        whole = sharpness(problem_of(model, {name: pair}), m=(len(pair[1]),), rho=(0.3,))["measures"][0]["value"]
        assert cross["matrix"][i][i] == pytest.approx(whole, rel=1e-8)


def test_curvature_of_each_domain_from_the_dense_hessian():
    data, model = domain_data(), small_mlp()
    table = domains(problem_of(model, data), curvature=True)["domains"]
    for name, (x, y) in data.items():
        matrix = dense(model, x, y)[2]
        assert table[name]["lambda_1"] == pytest.approx(float(torch.linalg.eigvalsh(matrix)[-1]), rel=1e-5)
        assert table[name]["lambda_1_residual"] <= 1e-3
        spread = max(4 * (table[name]["trace_stderr"] or 0), 1e-6)
        assert table[name]["trace"] == pytest.approx(float(matrix.trace()), abs=spread)


def test_a_domain_with_one_example():
    data = {**domain_data((9,)), "one": (torch.ones(1, 5).double(), torch.zeros(1).long())}
    found = domains(problem_of(small_mlp(), data), sharpness=True, curvature=True)
    one = found["domains"]["one"]
    assert (one["n"], one["loss_low"], one["gradient_variance"]) == (1, None, None)
    assert 0 <= one["accuracy_low"] < one["accuracy_high"] <= 1
    assert one["m_sharpness"] > 0
    json.dumps(found.to_json(), allow_nan=False)


def test_further_splits():
    data, other, model = domain_data(), domain_data(seed=5), small_mlp()
    problem = problem_of(model, data, unseen=["photo"])
    found = domains(problem, splits={"val": Examples.of(other)})
    for name, (x, y) in other.items():
        d = found["splits"]["val"]["domains"][name]
        assert d["loss"] == pytest.approx(F.cross_entropy(model(x), y).item(), rel=1e-12)
        assert d["seen"] == (name != "photo")
        assert float(found.data["split_loss"].sel(split="val", domain=name)) == d["loss"]
    seen = [found["splits"]["val"]["domains"][n]["loss"] for n in ("art", "cartoon")]
    assert found["splits"]["val"]["loss_variance"] == pytest.approx(np.var(seen), rel=1e-12)


def test_curves_are_the_points_of_the_checkpoints(tmp_path: Path):
    data = domain_data()
    models = {step: small_mlp(seed=step) for step in (0, 3, 7)}
    files = {}
    for step, model in models.items():
        files[step] = tmp_path / f"{step}.pt"
        torch.save(model.state_dict(), files[step])
    problem = problem_of(models[7], data, unseen=["art"])
    others = {"val": Examples.of(domain_data(seed=2))}
    found = domains(problem, curves=True, sharpness=True, splits=others, checkpoints=files)
    assert found.kind == "domain-curves"
    assert found.data["loss"].dims == ("step", "domain")
    for step, model in models.items():
        alone = domains(problem_of(model, data, unseen=["art"]), sharpness=True, splits=others)
        here = found.data.sel(step=step)
        for name, d in alone["domains"].items():
            for field in ("loss", "accuracy", "gradient_norm", "m_sharpness", "gradient_variance"):
                assert float(here[field].sel(domain=name)) == pytest.approx(d[field], rel=1e-9)
            split = alone["splits"]["val"]["domains"][name]["loss"]
            assert float(here["split_loss"].sel(domain=name, split="val")) == pytest.approx(split, rel=1e-12)
        for field in ("loss_mean", "loss_variance", "loss_range", "unseen_loss_mean"):
            assert float(here[field]) == pytest.approx(alone[field], rel=1e-9)
        assert float(here["perturbed_loss_variance"]) == pytest.approx(alone["perturbed"]["loss_variance"], rel=1e-8)
    scaled = found.data["normalized_loss"].values
    assert scaled.min(0).tolist() == [0, 0, 0]
    assert scaled.max(0).tolist() == [1, 1, 1]
    losses = found.data["loss"].values
    assert scaled[1] == pytest.approx((losses[1] - losses.min(0)) / np.ptp(losses, axis=0), rel=1e-12)
    assert found["domains"] == domains(problem, sharpness=True, splits=others)["domains"]  # the last checkpoint
    json.dumps(found.to_json(), allow_nan=False)


def test_refusals():
    problem = problem_of(small_mlp(), domain_data())
    with pytest.raises(UsageError, match=r"at least two checkpoints.*`save_every=`"):
        domains(problem, curves=True)
    with pytest.raises(UsageError, match="`m=` belongs to `sharpness=True`"):
        DomainsSpec(m=3)
    with pytest.raises(UsageError, match=r"rho=0\.0"):
        DomainsSpec(sharpness=True, rho=0.0)
    with pytest.raises(UsageError, match="m=10 exceeds the 9 examples"):
        domains(problem, sharpness=True, m=10)
    assert math.isfinite(domains(problem, sharpness=True)["m"])
