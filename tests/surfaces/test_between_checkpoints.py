"""Lines, curves, planes and trajectories, and BatchNorm on the way."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from cases import Coordinates, assert_untouched, domain_data, problem_of, small_mlp, snapshot
from torch import Tensor, nn

from landscape.base.errors import NumericalError, UsageError
from landscape.problem.problem import Problem
from landscape.specs import PathSpec, SurfaceSpec
from landscape.surfaces.directions.curves import point_on, share_of_bend
from landscape.surfaces.directions.snapshots import Snapshot
from landscape.surfaces.directions.trajectory import components, evenly, gram_matrix, project
from landscape.surfaces.evaluate.batchnorm import (
    batchnorm_layers,
    calibration_problem,
    preserved_statistics,
    recalibrate,
    running_statistics,
)
from landscape.surfaces.evaluate.evaluator import evaluating
from landscape.surfaces.path import path, path_values
from landscape.surfaces.planes import plane, plane_axes
from landscape.surfaces.surface import surface
from landscape.weights.weights import save_weights

NO_INPUT = (torch.zeros(3, 1).double(), torch.zeros(3).double())


def at(values: list[float], label: str = "") -> Snapshot:
    """A checkpoint of a `Coordinates` model."""
    tensor = torch.tensor([values], dtype=torch.float64)
    return Snapshot(lambda: ([tensor], {}), {"label": label, "target": label, "weights_hash": label, "step": None})


def point(values: list[float], loss) -> Problem:
    return problem_of(Coordinates(torch.tensor([values], dtype=torch.float64)), NO_INPUT, loss)


def batchnorm_net(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)).double()
        model.train()
        for _ in range(5):
            model(torch.randn(40, 5).double() * (2 + seed) + seed)
    return model.eval()


# -- BatchNorm -----------------------------------------------------------------------------------------------


def test_recalibrated_statistics_are_those_of_the_examples():
    """With equal batches: means exact, variances the mean of the unbiased ones within batches."""
    model = batchnorm_net()
    x = torch.randn(40, 5).double() * 4 + 1
    problem = problem_of(model, (x, torch.arange(40) % 3))
    training = calibration_problem(problem, problem.examples)
    assert training.batch_size == 4
    h = model[0](x).detach()
    before = {k: v.clone() for k, v in running_statistics(problem.model).items()}
    with preserved_statistics(problem.model):
        recalibrate(training)
        layer = batchnorm_layers(problem.model)["1"]
        assert torch.allclose(layer.running_mean, h.mean(0), atol=1e-12)
        expected = torch.stack([part.var(0) for part in h.split(4)]).mean(0)
        assert torch.allclose(layer.running_var, expected, atol=1e-12)
        assert not layer.training
    for name, value in running_statistics(problem.model).items():
        assert torch.equal(value, before[name])
    assert batchnorm_layers(problem.model)["1"].momentum == 0.1
    assert int(batchnorm_layers(problem.model)["1"].num_batches_tracked) == 5


@pytest.mark.parametrize("n", [2, 11, 21, 31, 45])
def test_no_batch_of_one(n: int):
    problem = problem_of(batchnorm_net(), (torch.randn(n, 5).double(), torch.arange(n) % 3))
    training = calibration_problem(problem, problem.examples)
    assert min(len(b) for b in training.batches()) > 1
    assert training.batch_size <= max(3, -(-n // 10) + 1)


def test_statistics_come_back_after_an_error():
    problem = problem_of(batchnorm_net(), domain_data())
    before = {k: v.clone() for k, v in problem.model.state_dict().items()}

    def fail() -> None:
        with evaluating(problem, "recalibrate", None, problem) as walker:
            walker.at([])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert all(torch.equal(v, before[k]) for k, v in problem.model.state_dict().items())
    assert not any(m.training for m in problem.model.modules())


def test_recalibrate_keep_and_interpolate_on_a_line():
    """Recalibrated ends are the recalibrated evaluations; interpolated ones the checkpoints themselves."""
    a, b, data = batchnorm_net(0), batchnorm_net(1), domain_data()
    problem, other = problem_of(a, data), Snapshot.of(problem_of(b, data))
    own = [problem_of(m, data).loss() for m in (a, b)]
    found = {}
    for bn in ("recalibrate", "keep", "interpolate"):
        training = calibration_problem(problem, problem.examples)
        before = snapshot(a)
        found[bn] = path(problem, other, points=5, bn=bn, training=training)
        assert_untouched(a, before)
        assert found[bn]["restored"] is True
        assert found[bn]["bn_policy"] == bn
        assert [found[bn]["ends"][e]["plain"] for e in "ab"] == own
    assert found["interpolate"]["loss"][0] == own[0]
    assert found["interpolate"]["loss"][-1] == own[1]
    assert found["keep"]["loss"][0] == own[0]
    assert found["keep"]["loss"][-1] != pytest.approx(own[1], rel=1e-3)
    assert any("statistics of A are kept" in n for n in found["keep"]["notes"])
    for model, value in ((a, found["recalibrate"]["loss"][0]), (b, found["recalibrate"]["loss"][-1])):
        p = problem_of(copy.deepcopy(model), data)
        recalibrate(calibration_problem(p, p.examples))
        assert p.loss() == value
    assert (
        path(problem, other, points=3, training=calibration_problem(problem, problem.examples))["bn_policy"]
        == "recalibrate"
    )


def test_a_permuted_twin_has_equal_ends_under_recalibration_only():
    """B computes the same as A, its hidden units stand in another order (reference, section 4.6)."""
    a, data = batchnorm_net(), domain_data()
    b, order = copy.deepcopy(a), torch.tensor([3, 5, 0, 1, 2, 4])
    with torch.no_grad():
        for tensor in (b[0].weight, b[0].bias, b[1].weight, b[1].bias, b[1].running_mean, b[1].running_var):
            tensor.copy_(tensor[order])
        b[3].weight.copy_(b[3].weight[:, order])
    problem, other = problem_of(a, data), Snapshot.of(problem_of(b, data))
    assert problem_of(b, data).loss() == pytest.approx(problem.loss(), rel=1e-12)
    training = calibration_problem(problem, problem.examples)
    again = path(problem, other, points=5, bn="recalibrate", training=training)
    assert again["loss"][0] == pytest.approx(again["loss"][-1], rel=1e-10)
    assert np.isfinite(again["barrier"])
    kept = path(problem, other, points=5, bn="keep")
    assert kept["loss"][-1] != pytest.approx(kept["loss"][0], rel=1e-2)


def test_a_random_slice_cannot_interpolate_statistics():
    problem = problem_of(batchnorm_net(), domain_data())
    with pytest.raises(UsageError, match="between checkpoints only"):
        surface(problem, points=3, bn="interpolate")
    with (
        pytest.raises(UsageError, match=r"no examples to estimate.*bn='recalibrate'.*pass training="),
        evaluating(problem, "recalibrate"),
    ):
        pass


@pytest.mark.parametrize("kind", ["path", "surface", "plane"])
def test_a_library_call_without_training_examples_estimates_from_its_own(kind: str):
    """The default of `path` and of planes works on a BatchNorm network, and the record says what was used."""
    problem = problem_of(batchnorm_net(), domain_data())
    others = [Snapshot.of(problem_of(batchnorm_net(s), domain_data())) for s in (1, 2)]

    def compute(**more):
        if kind == "path":
            return path(problem, others[0], points=3, **more)
        if kind == "surface":
            return surface(problem, points=3, bn="recalibrate", **more)
        return plane(problem, SurfaceSpec(plane=True, points=3), [[o] for o in others], **more)

    found, given = compute(), compute(training=calibration_problem(problem, problem.examples))
    assert found.data["loss"].values.tolist() == given.data["loss"].values.tolist()
    assert found["bn_policy"] == "recalibrate"
    assert (found["calibration_examples"], found["calibration_data_hash"]) == (42, problem.data_hash)
    (note,) = set(found["notes"]) - set(given["notes"])
    assert note.startswith("BatchNorm statistics are estimated from the examples that are measured")


def test_a_curve_without_training_examples_names_the_argument():
    problem = problem_of(batchnorm_net(), domain_data())
    with pytest.raises(UsageError, match=r"kind='bezier'\): pass training=calibration_problem"):
        path(problem, Snapshot.of(problem_of(batchnorm_net(1), domain_data())), kind="bezier")


def test_a_recalibrated_slice_is_recalibrated_at_every_point():
    problem = problem_of(batchnorm_net(), domain_data())
    training = calibration_problem(problem, problem.examples)
    found = surface(problem, dim=1, points=3, range=0.5, bn="recalibrate", training=training)
    d = {n: found.vectors[f"d1.{n}"] for n in problem.space.names}
    for i, x in enumerate(found.data["x"].values):
        moved = copy.deepcopy(problem.model)
        with torch.no_grad():
            for name, parameter in moved.named_parameters():
                parameter.add_(d[name], alpha=float(x))
        p = problem_of(moved, problem.examples)
        recalibrate(calibration_problem(p, p.examples))
        assert float(found.data["loss"][i]) == pytest.approx(p.loss(), rel=1e-12)
    assert found["calibration_examples"] == 42
    assert found["restored"] is True


# -- paths ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["line", "bezier", "polychain"])
def test_curves_meet_their_ends_bit_for_bit(kind: str):
    torch.manual_seed(0)
    a, b, c = ([torch.randn(50)] for _ in range(3))
    assert torch.equal(point_on(kind, 0.0, a, b, c)[0], a[0])
    assert torch.equal(point_on(kind, 1.0, a, b, c)[0], b[0])
    for t in (0.1, 0.5, 0.7):
        found = point_on(kind, t, a, b, c)[0]
        if kind == "bezier":
            expected = (1 - t) ** 2 * a[0] + 2 * t * (1 - t) * c[0] + t**2 * b[0]
        elif kind == "polychain":
            expected = a[0] + 2 * t * (c[0] - a[0]) if t <= 0.5 else c[0] + (2 * t - 1) * (b[0] - c[0])
        else:
            expected = (1 - t) * a[0] + t * b[0]
        assert torch.allclose(found, expected, atol=1e-6)
        if kind != "line":  # the share is the derivative by the bend
            moved = point_on(kind, t, a, b, [c[0] + 1])[0] - found
            assert torch.allclose(moved, torch.full_like(moved, share_of_bend(kind, t)), atol=1e-5)


def test_values_of_t():
    assert path_values(PathSpec(points=5)).tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert path_values(PathSpec(points=5, beyond=0.5)).tolist() == [-0.5, -0.25, 0, 0.25, 0.5, 0.75, 1, 1.25, 1.5]


def test_both_ends_are_the_checkpoints_and_the_barrier_is_right():
    """A double well (w² − 1)² in float32: ends are bit-equal, the barrier is 1 at t = 1/2, over unequal ends."""
    data, a, b = domain_data(), small_mlp(seed=0), small_mlp(seed=1)
    problem = problem_of(a, data, dtype="float32")
    other = problem_of(b, data, dtype="float32")
    found = path(problem, Snapshot.of(other), points=7)
    assert found["loss"][0] == problem.loss()
    assert found["loss"][-1] == other.loss()
    well = point([-1.0, 0.0], lambda o, t: (o[:, 0] ** 2 - 1) ** 2 + 0.1 * (o[:, 0] + 1))
    found = path(well, at([1.0, 0.0]), points=5, beyond=0.25)
    assert found["barrier"] == pytest.approx(1.0)
    assert found["barrier_at"] == 0.5
    assert found["barrier_above_higher_end"] == pytest.approx(1.1 - 0.2)
    assert found["distance"] == pytest.approx(2)
    assert found["t"][0] == -0.25
    with pytest.raises(UsageError, match="the two checkpoints are equal"):
        path(well, at([-1.0, 0.0]))


@pytest.mark.parametrize("kind", ["bezier", "polychain"])
def test_a_curve_goes_around_the_hill(kind: str):
    """A ring of minima: the line crosses the hill of height 1, a bend can go around it."""
    ring = point([-1.0, 0.1], lambda o, t: (o[:, 0] ** 2 + o[:, 1] ** 2 - 1) ** 2)
    line = path(ring, at([1.0, 0.1]), points=9)
    assert line["barrier"] > 0.9
    curve = path(ring, at([1.0, 0.1]), points=9, kind=kind, training=ring, steps=500, lr=0.02)
    assert curve["barrier"] < 0.25
    assert curve["curve"]["last_loss"] < curve["curve"]["first_loss"]
    assert curve["restored"] is True
    assert {k.partition(".")[0] for k in curve.vectors} == {"bend"}
    again = path(ring, at([1.0, 0.1]), points=9, kind=kind, training=ring, steps=500, lr=0.02)
    assert again["loss"] == curve["loss"]
    with pytest.raises(NumericalError, match=r"the loss of the curve is (inf|nan).*lower `lr=`"):
        path(ring, at([1.0, 0.1]), kind=kind, training=ring, steps=400, lr=1e4)
    with pytest.raises(UsageError, match="needs training examples"):
        path(ring, at([1.0, 0.1]), kind=kind)


def test_options_of_paths():
    for wrong in ({"kind": "bezier", "beyond": 0.5}, {"kind": "bezier", "bn": "interpolate"}, {"points": 2}):
        with pytest.raises(UsageError):
            PathSpec(**wrong)


# -- planes --------------------------------------------------------------------------------------------------


def echo(o: Tensor, _: Tensor) -> Tensor:
    return 10 * o[:, 0] + 1000 * o[:, 1] + o[:, 2]


def test_a_plane_through_three_checkpoints_holds_them():
    problem = point([1.0, 2.0, 3.0], echo)
    second, third, fourth = at([4.0, 2.0, 3.0], "b"), at([2.0, 5.0, 3.0], "c"), at([1.0, 3.0, 5.0], "d")
    u, v = plane_axes(problem, second, third)
    assert u.norm == pytest.approx(1)
    assert v.norm == pytest.approx(1)
    assert u.cosine(v) == pytest.approx(0, abs=1e-15)
    found = plane(problem, SurfaceSpec(plane=True, points=4), [[second], [third], [fourth]])
    data = found.data
    assert data["checkpoint_x"].values == pytest.approx([3, 1, 0])
    assert data["checkpoint_y"].values == pytest.approx([0, 3, 1])
    assert data["off_plane"].values == pytest.approx([0, 0, 2], abs=1e-12)
    assert data["from_origin"].values == pytest.approx([3, np.sqrt(10), np.sqrt(5)])
    assert data["checkpoint_loss"].values == pytest.approx([2043, 5023, 3015])
    assert data["plane_loss"].values == pytest.approx([2043, 5023, 3013])
    expected = 2013 + 10 * data["x"].values[None, :] + 1000 * data["y"].values[:, None]
    assert data["loss"].values == pytest.approx(expected)
    assert data["loss"].dims == ("y", "x")
    assert data["x"].values[0] == pytest.approx(-0.6)
    assert data["x"].values[-1] == pytest.approx(3.6)
    assert data["y"].values[-1] == pytest.approx(3.6)
    assert found["restored"] is True


def test_three_in_a_row_span_no_plane():
    problem = point([0.0, 0.0, 0.0], echo)
    with pytest.raises(UsageError, match="lie on one line"):
        plane_axes(problem, at([1.0, 1.0, 0.0]), at([2.0, 2.0, 0.0]))
    with pytest.raises(UsageError, match="first two checkpoints are equal"):
        plane_axes(problem, at([0.0, 0.0, 0.0]), at([2.0, 2.0, 0.0]))


def test_a_plane_of_batchnorm_networks_can_interpolate_statistics():
    nets, data = [batchnorm_net(s) for s in range(3)], domain_data()
    problem = problem_of(nets[0], data)
    snapshots = [[Snapshot.of(problem_of(n, data), {"label": "x"})] for n in nets[1:]]
    found = plane(problem, SurfaceSpec(plane=True, points=3, bn="interpolate"), snapshots)
    own = [problem_of(n, data).loss() for n in nets[1:]]
    assert found.data["checkpoint_loss"].values == pytest.approx(own, rel=1e-12)
    assert found.data["plane_loss"].values == pytest.approx(own, rel=1e-9)
    assert found["center_loss"] == problem.loss()
    training = calibration_problem(problem, problem.examples)
    again = plane(problem, SurfaceSpec(plane=True, points=3), snapshots, training=training)
    assert again["bn_policy"] == "recalibrate"
    assert again.data["plane_loss"].values == pytest.approx(again.data["checkpoint_loss"].values, rel=1e-9)
    assert again["center_loss"] != again["plain_loss"]


# -- trajectories --------------------------------------------------------------------------------------------


def planted(noise: float = 0.01) -> tuple[Problem, list[list[Snapshot]], Tensor]:
    """Two runs of ten checkpoints in a plane of 30 dimensions, plus noise orthogonal to it."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(30, 30, generator=generator, dtype=torch.float64))[0]
    t = torch.linspace(1, 0, 10).double()
    runs = []
    for sign in (1.0, -1.0):
        curve = 5 * t[:, None] * basis[0] + 2 * sign * (t * (1 - t))[:, None] * basis[1]
        off = noise * torch.randn(10, 28, generator=generator, dtype=torch.float64) @ basis[2:]
        off[-1] = 0
        runs.append([at((1 + row).tolist()) for row in curve + off])
    return point([1.0] * 30, lambda o, _: (o - 1).square().sum(1)), runs, basis


def test_a_planted_plane_is_found():
    problem, runs, basis = planted()
    axes = components(problem, runs, 3)
    for k in range(2):
        assert abs(float(axes[k].tensors[0].reshape(-1) @ basis[k])) == pytest.approx(1, abs=1e-3)
        assert float(axes[k].tensors[0].reshape(-1).abs().max()) == float(axes[k].tensors[0].max())
    gram = np.array([[a.dot(b) for b in axes] for a in axes])
    assert gram == pytest.approx(np.eye(3), abs=1e-9)
    rows = torch.cat([s.weights()[0] for run in runs for s in run]) - 1
    singular = torch.linalg.svdvals(rows) ** 2
    shares = [a.facts["explained_variance"] for a in axes]
    assert shares == pytest.approx((singular / singular.sum())[:3].tolist(), rel=1e-9)
    assert axes[0].facts["centred"] is False


def test_coordinates_and_distance_off_the_plane():
    problem, runs, _ = planted(0.1)
    axes = components(problem, runs, 2)
    for snapshot_ in (runs[0][0], runs[1][4], runs[0][-1]):
        row = snapshot_.weights()[0].reshape(-1) - 1
        v = torch.stack([a.tensors[0].reshape(-1) for a in axes])
        coordinates, off, far = project(problem, snapshot_, axes)
        assert coordinates == pytest.approx((v @ row).tolist(), abs=1e-9)
        assert off == pytest.approx(float((row - v.T @ (v @ row)).norm()), abs=1e-9)
        assert far == pytest.approx(float(row.norm()), abs=1e-12)


def test_oblique_axes_are_projected_by_least_squares():
    problem = point([0.0, 0.0, 0.0], echo)
    from landscape.surfaces.directions.direction import Direction

    axes = [
        Direction("a", [torch.tensor([[1.0, 0, 0]]).double()]),
        Direction("b", [torch.tensor([[1.0, 2.0, 0]]).double()]),
    ]
    coordinates, off, _ = project(problem, at([5.0, 4.0, 7.0]), axes)
    assert coordinates == pytest.approx([3, 2])
    assert off == pytest.approx(7)


def test_the_gram_matrix_does_not_depend_on_blocks(monkeypatch):
    problem, runs, _ = planted()
    every = [s for run in runs for s in run]
    rows = torch.cat([s.weights()[0] for s in every]) - 1
    monkeypatch.setattr("landscape.surfaces.directions.trajectory._BLOCK", 3)
    assert gram_matrix(problem, every) == pytest.approx((rows @ rows.T).numpy(), abs=1e-12)


def test_a_plane_of_trajectories():
    problem, runs, _ = planted()
    found = plane(problem, SurfaceSpec(direction=("pca:1", "pca:2"), points=5), runs)
    data = found.data
    assert data["run"].values.tolist() == [0] * 10 + [1] * 10
    own = [float((s.weights()[0] - 1).square().sum()) for run in runs for s in run]
    assert data["checkpoint_loss"].values == pytest.approx(own, rel=1e-12)
    below = data["checkpoint_x"].values ** 2 + data["checkpoint_y"].values ** 2
    assert data["plane_loss"].values == pytest.approx(below, abs=1e-9)
    assert data["off_plane"].values ** 2 == pytest.approx(np.array(own) - below, abs=1e-9)
    assert found["axes"][0]["explained_variance"] > 0.9
    for side in "xy":
        assert data[side].values.min() < data[f"checkpoint_{side}"].values.min()
        assert data[side].values.max() > data[f"checkpoint_{side}"].values.max()


def test_too_few_checkpoints_are_said():
    problem = point([0.0, 0.0, 0.0], echo)
    with pytest.raises(UsageError, match=r"2 checkpoints span 1 dimension\(s\), 2 are needed"):
        components(problem, [[at([1.0, 0, 0]), at([2.0, 0, 0])]], 2)
    with pytest.raises(UsageError, match="pca needs the checkpoints of a run"):
        surface(problem, points=3, direction=("pca:1", "pca:2"))


def test_checkpoints_are_thinned_evenly():
    assert evenly(list(range(10)), 4) == [0, 3, 6, 9]
    assert evenly([1, 2], 2) == [1, 2]


def test_other_parameters_must_agree(tmp_path):
    part = problem_of(small_mlp(), domain_data(), params="^2")
    save_weights(tmp_path / "other.safetensors", small_mlp(seed=1))
    other = Snapshot.read(tmp_path / "other.safetensors", part)
    with pytest.raises(UsageError, match=r"differ in 2 parameter\(s\) that do not move"):
        other.weights()
