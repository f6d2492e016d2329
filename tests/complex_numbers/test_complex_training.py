"""Complex networks are trained, stored, resumed, averaged and opened again as their twins of real pairs are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from complex_twins import TWINS, Classifier, classifier_data
from safetensors import safe_open
from torch import Tensor

import landscape
from landscape.data.examples import Batch
from landscape.numerics.tensors import as_real
from landscape.optim.core.passes import RandomState
from landscape.training.augment import MixupBatch
from landscape.training.loop import Training
from landscape.training.probes import PROBES, AscentPoint, take
from landscape.training.replicas import share_buffers
from landscape.training.steps import BatchLosses
from landscape.weights.checkpoint import read_weights

FILE = """
import sys
sys.path.insert(0, {tests!r})
from complex_twins import Classifier, classifier_data


def data():
    made = classifier_data(16)
    return {{"train": made, "test": made}}


def network(pairs: int = 0):
    return Classifier(bool(pairs))
"""

Trained = Callable[..., landscape.Run]


@pytest.fixture
def trained(tmp_path: Path) -> Trained:
    file = tmp_path / "problem.py"
    file.write_text(FILE.format(tests=str(Path(__file__).parent.parent)))

    def call(out: str = "runs", *, pairs: bool = False, resume: bool = False, **options: Any) -> landscape.Run:
        given = {"steps": 6, "batch_size": 8, "optimizer": ("sgd",), "dtype": "float64", "lr": 0.05, **options}
        given["model_arg"] = (f"pairs={int(pairs)}",)
        (run,) = landscape.train(
            tmp_path / f"{out}{pairs}",
            resume=resume,
            data=f"{file}:data",
            model=f"{file}:network",
            **given,
        )
        return run

    return call


def weights(run: landscape.Run) -> dict[str, Tensor]:
    return {k: as_real(v).reshape(-1) for k, v in read_weights(run.checkpoint()).tensors.items()}


@pytest.mark.parametrize(
    "options",
    [
        {"momentum": 0.9, "weight_decay": 0.01},
        {"optimizer": ("adamw",)},
        {"average": "swa"},
        {"average": "swad"},
        {"clip": 0.1},
    ],
    ids=str,
)
def test_trained_as_the_twin(trained: Trained, options: dict[str, Any]):
    runs = [trained(pairs=pairs, **options) for pairs in TWINS]
    ours, twin = map(weights, runs)
    start = Classifier(False).state_dict()
    assert set(ours) == set(twin) == set(start)
    assert read_weights(runs[0].checkpoint()).tensors["first.weight"].is_complex()
    for name, values in ours.items():
        torch.testing.assert_close(values, twin[name], rtol=1e-10, atol=1e-12)
    assert float((ours["first.weight"] - as_real(start["first.weight"]).reshape(-1)).abs().min()) > 0


def test_checkpoints_of_a_run_hold_pairs_and_open_complex(trained: Trained):
    run = trained(dtype="float32")
    with safe_open(run.checkpoint(), framework="pt") as handle:
        assert handle.get_tensor("first.weight").shape == (4, 5, 2)
    opened = landscape.open(run)
    assert opened.model.first.weight.dtype == torch.complex64
    saved = read_weights(run.checkpoint()).tensors
    assert torch.equal(opened.model.first.weight.detach(), saved["first.weight"])
    assert landscape.open(run, dtype="float64").loss() == pytest.approx(opened.loss(), rel=1e-5)


def test_a_stopped_training_ends_in_the_same_complex_weights(trained: Trained, monkeypatch: pytest.MonkeyPatch):
    options: dict[str, Any] = {"momentum": 0.9, "average": "swa"}
    whole = trained("whole", **options)
    step = Training._one_step

    def stopping(self: Training, batch: Any) -> dict[str, Any]:
        if self.step == 3:
            self.stop.signal = "SIGTERM"
        return step(self, batch)

    monkeypatch.setattr(Training, "_one_step", stopping)
    with pytest.raises(landscape.Interrupted):
        trained("stopped", **options)
    monkeypatch.undo()
    resumed = trained("stopped", resume=True, **options)
    a, b = weights(whole), weights(resumed)
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_strangers_checkpoint_is_opened_analysed_and_started_from(tmp_path: Path):
    file = tmp_path / "problem.py"
    file.write_text(FILE.format(tests=str(Path(__file__).parent.parent)))
    model = Classifier(False, seed=4)
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "w.pt")
    options: dict[str, Any] = {"model": f"{file}:network", "data": f"{file}:data", "dtype": "float64"}
    problem = landscape.open(tmp_path / "w.pt", **options)
    x, y = (torch.cat(parts) for parts in zip(*classifier_data(16).values(), strict=True))
    with torch.no_grad():
        assert problem.loss() == pytest.approx(float(F.cross_entropy(model(x), y)), rel=1e-12)
    found = landscape.hessian(problem, top=2, tol=1e-6)
    stored = found.save(tmp_path / "found.nc")
    again = landscape.hessian(problem, top=2, tol=1e-6, warm_start=str(stored))
    assert again["eigenvalues"] == pytest.approx(found["eigenvalues"], rel=1e-9)
    assert again["hvp_count"] < found["hvp_count"]


def test_a_surface_goes_on_after_its_stored_rows(tmp_path: Path):
    problem = landscape.Problem(Classifier(False), classifier_data(), device="cpu")
    whole = landscape.surface(problem, points=3, store=tmp_path)
    assert list(tmp_path.glob("rows-*.npz"))
    again = landscape.surface(problem, points=3, store=tmp_path)
    assert whole.data["loss"].equals(again.data["loss"])


def test_complex_buffers_come_from_the_first_process(monkeypatch: pytest.MonkeyPatch):
    ours, theirs = Classifier(False), Classifier(False)
    theirs.scale.turn.mul_(1j)

    def all_reduce_sum_(tensors: list[Tensor]) -> None:  # as the second of two processes; the first sends its own
        if tensors[0].ndim:
            tensors[0].add_(as_real(theirs.scale.turn))

    for name, replaced in (
        ("rank_and_world_size", lambda: (1, 2)),
        ("is_main_process", lambda: False),
        ("all_reduce_sum_", all_reduce_sum_),
    ):
        monkeypatch.setattr(f"landscape.training.replicas.{name}", replaced)
    share_buffers(ours, 4)
    assert torch.equal(ours.scale.turn, theirs.scale.turn)


def points() -> list[AscentPoint]:
    x, y = (torch.cat(parts) for parts in zip(*classifier_data().values(), strict=True))
    domain = torch.arange(len(y)) % 2
    found = []
    for pairs in TWINS:
        model = Classifier(pairs)
        losses = BatchLosses(
            model, lambda o, t: F.cross_entropy(o, t, reduction="none"), MixupBatch(Batch(x, y, domain))
        )
        found.append(
            AscentPoint(losses, list(model.parameters()), 0.2, 0.5, 0.1, lambda: [2.0, 1.0], RandomState.now())
        )
    return found


@pytest.mark.parametrize("probe", PROBES)
def test_probes(probe: str):
    ours, twin = points()
    before = [p.detach().clone() for p in ours.parameters]
    found, expected = (take([probe], p)[probe] for p in (ours, twin))
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert value == pytest.approx(expected[name], rel=1e-9, abs=1e-12)
    assert all(torch.equal(p, b) for p, b in zip(ours.parameters, before, strict=True))
