"""Surfaces, planes, paths and exports as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from landscape.results.result import Result

SMALL = ("--examples", 60, "--json")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from landscape.specs import TrainSpec
    from landscape.training.trainer import train

    out = tmp_path_factory.mktemp("surfaces")
    spec = TrainSpec(
        optimizer=("sgd", "sam", "disam"), epochs=3, batch_size=256, model="mlp", model_arg=("hidden=[8]",),
        holdout=("0",), save_every="1epochs",
    )  # fmt: skip
    train(spec, out)
    return out


def every(runs: Path) -> list[Path]:
    return [runs / f"{name}-seed0" for name in ("sgd", "sam", "disam")]


def test_path_json(landscape, runs: Path) -> None:
    a, b = runs / "sgd-seed0", runs / "sam-seed0"
    said = landscape("path", a, b, "--points", 5, *SMALL)
    assert said.code == 0, said.err
    found = said.json
    assert set(found) >= {"a", "b", "kind", "barrier", "t", "loss", "accuracy", "bn_policy", "result"}
    assert found["t"] == [0, 0.25, 0.5, 0.75, 1]
    assert found["a"].startswith(str(a))
    assert found["b"].startswith(str(b))
    for end, run in ((0, a), (-1, b)):
        alone = landscape("surface", run, "--dim", 1, "--points", 3, *SMALL).json
        assert found["loss"][end] == pytest.approx(alone["plain_loss"], rel=1e-6)
    assert Path(found["result"]).parent.name == "landscape-results"
    again = landscape("path", a, b, "--points", 5, *SMALL)
    assert again.json == found
    assert "stored result" in again.err
    curve = landscape("path", a, b, "--kind", "bezier", "--steps", 5, "--points", 3, "--align", *SMALL).json
    assert (curve["kind"], len(curve["loss"])) == ("bezier", 3)
    assert curve["aligned"]["units"] == 8
    assert Path(curve["vectors"]).is_file()


def test_path_prints_both_ends_before_and_after(landscape, runs: Path) -> None:
    said = landscape("path", runs / "sgd-seed0", runs / "sam-seed0", "--points", 3, "--examples", 60)
    assert said.code == 0, said.err
    for text in ("barrier", "loss at A", "loss at B", "on the path", "BatchNorm", "bit for bit"):
        assert text in said.out


def test_a_plane_through_three_and_a_projected_fourth(landscape, runs: Path) -> None:
    found = landscape("surface", *every(runs), f"{runs / 'sgd-seed0'}@step=5", "--plane", "--points", 4, *SMALL).json
    assert found["shape"] == [4, 4]
    assert [c["label"] for c in found["checkpoints"]] == ["sam", "disam", "sgd"]
    assert found["directions"].endswith(".safetensors")
    result = Result.load(found["result"])
    assert result.kind == "plane"
    off = result.data["off_plane"].values
    assert off[:2] == pytest.approx([0, 0], abs=1e-3)
    assert off[2] > 0.01
    assert result.data["checkpoint_loss"].values[:2] == pytest.approx(result.data["plane_loss"].values[:2], rel=1e-4)
    few = landscape("surface", *every(runs)[:2], "--plane")
    assert few.code == 2
    assert "name three checkpoints" in few.error


def test_trajectories_of_several_runs_on_one_plane(landscape, runs: Path) -> None:
    words = ("surface", *every(runs), "--direction", "pca:1", "pca:2", "--points", 4, "--examples", 60)
    found = landscape(*words, "--json").json
    assert len(found["checkpoints"]) == 12
    assert found["same_start"] is True
    shares = [a["explained_variance"] for a in found["axes"]]
    assert 0.5 < sum(shares) <= 1 + 1e-9
    shown = landscape(*words)
    assert "off plane" in shown.out
    drawn = landscape("plot", found["result"], "--kind", "plane", "--format", "png", "--json")
    assert drawn.code == 0, drawn.err
    alone = landscape("surface", runs / "sgd-seed0", *words[4:], "--json").json
    assert Path(alone["result"]).parent == runs / "sgd-seed0" / "results"
    assert landscape("surface", runs / "sgd-seed0", "--dim", 1, "--direction", "pca:1").code == 2


def test_compared_runs_share_one_range(landscape, runs: Path) -> None:
    words = ("--dim", 1, "--range", "auto", "--points", 5, *SMALL)
    both = landscape("surface", *every(runs)[:2], *words).json["results"]
    alone = [landscape("surface", run, *words).json for run in every(runs)[:2]]
    assert both[0]["range"] == both[1]["range"]
    assert both[0]["range"][0] == max(a["range"][0] for a in alone)
    assert alone[0]["range"] != alone[1]["range"]


def test_metrics_of_the_test_split_and_special_axes(landscape, runs: Path) -> None:
    run = runs / "sgd-seed0"
    metrics = ("--metrics", "loss", "test-loss", "test-accuracy", "worst-domain")
    found = landscape("surface", run, "--points", 3, *metrics, *SMALL).json
    assert found["metrics"] == ["loss", "worst_domain", "worst_domain_loss", "test_loss", "test_accuracy"]
    assert found["test_examples"] == 60
    axes = ("--direction", "sam:0.05", f"checkpoint:{runs / 'sam-seed0'}")
    cut = landscape("surface", run, "--points", 3, *axes, *SMALL).json
    assert cut["axes"][0]["norm"] == pytest.approx(0.05, rel=1e-4)
    loss = Result.load(cut["result"]).data["loss"]
    other = landscape("path", run, runs / "sam-seed0", "--points", 3, *SMALL).json["loss"][-1]
    assert float(loss.sel(x=0, y=1)) == pytest.approx(other, rel=1e-5)
    stored = landscape(
        "surface", runs / "disam-seed0", "--points", 3, "--direction", f"file:{cut['directions']}", *SMALL
    ).json
    assert stored["axes"][0]["norm"] == pytest.approx(0.05, rel=1e-4)


def test_an_interrupted_surface_goes_on(landscape, runs: Path, monkeypatch) -> None:
    from landscape.surfaces.evaluate import row_cache as rows
    from landscape.surfaces.evaluate.evaluator import Evaluator

    words = ("surface", runs / "sam-seed0", "--points", 9, *SMALL)
    plain, calls = Evaluator.over, []

    def over(self, places):
        calls.extend(places)
        if len(calls) == 54 + len(places):
            raise KeyboardInterrupt
        return plain(self, places)

    monkeypatch.setattr(rows, "_SECONDS_BETWEEN_WRITES", 0)
    monkeypatch.setattr(Evaluator, "over", over)
    stopped = landscape(*words)
    assert stopped.code == 75
    assert "run the same command again" in stopped.error
    left = list((runs / "sam-seed0" / "results").glob("*.rows"))
    assert len(left) == 1
    calls += [0] * 100
    before = len(calls)
    found = landscape(*words)
    assert found.code == 0, found.err
    assert len(calls) - before < 60
    assert "going on after" in found.err
    assert not left[0].exists()
    assert landscape(*words, "--force").json["plain_loss"] == found.json["plain_loss"]


def test_exports(landscape, runs: Path, tmp_path: Path) -> None:
    found = landscape("surface", runs / "sgd-seed0", "--points", 3, *SMALL).json
    said = landscape("export", found["result"], "--format", "csv", "npz", "vti", "--json")
    assert said.code == 0, said.err
    paths = [Path(p) for p in said.json["outputs"]]
    assert [p.suffix for p in paths] == [".csv", ".npz", ".vti"]
    assert all(p.parent == tmp_path / "landscape-exports" for p in paths)
    with np.load(paths[1]) as stored:
        assert json.loads(str(stored["record"]))["n_examples"] == 60


BAD = [
    (("path", "A"), "1 target(s)"),
    (("path", "A", "B", "--kind", "bezier", "--beyond", "0.5"), "a bezier ends at its checkpoints"),
    (("path", "A", "A"), "the two checkpoints are equal"),
    (("surface", "A", "--direction", "eigvec"), "write eigvec: and a rank from 1 behind the colon"),
    (("surface", "A", "--direction", "grad"), "give one direction per axis"),
    (("surface", "A", "--range", "wide"), "--range"),
    (("surface", "A", "--metrics", "lss"), "did you mean 'loss'"),
    (("surface", "A", "--direction", "checkpoint:nothing.pt", "filter"), "no such run or checkpoint"),
    (("surface", "A", "--bn", "interpolate", "--adaptive-grid", "--points", "8"), "expected an odd number"),
]


@pytest.mark.parametrize(("words", "text"), BAD, ids=lambda v: " ".join(v) if isinstance(v, tuple) else "")
def test_bad_input_is_one_line(words, text: str, landscape, runs: Path) -> None:
    names = {"A": str(runs / "sgd-seed0"), "B": str(runs / "sam-seed0")}
    said = landscape(*(names.get(w, w) for w in words))
    assert said.code == 2, said.err
    assert text in said.error


def test_three_checkpoints_become_a_figure_in_one_command(tmp_path, monkeypatch, capsys):
    import torch
    from landscape_cli.app import main
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "def network():\n    return torch.nn.Sequential(torch.nn.Linear(2, 3))\n"
        "def data():\n    return {'train': (torch.eye(2).repeat(6, 1), torch.tensor([0, 1]).repeat(6))}\n"
    )
    for i, name in enumerate(("sgd.pt", "sam.pt", "mine.pt")):
        torch.manual_seed(i)
        torch.save(torch.nn.Sequential(torch.nn.Linear(2, 3)).state_dict(), tmp_path / name)
    words = ["surface", "sgd.pt", "sam.pt", "mine.pt", "--model", "mine.py:network", "--data", "mine.py:data"]
    words += ["--points", "3", "--figure", "contour", "--venue", "icml", "--columns", "2", "--json"]
    assert main(words) == 0
    figures = json.loads(capsys.readouterr().out)["figures"]
    assert [f.rpartition(".")[2] for f in figures] == ["pdf", "png", "tex", "csv"]
    with Image.open(figures[1]) as picture:
        assert picture.width == round(6.75 * 300)
    assert main([*words[:-7], "--figure", "contours"]) == 2
