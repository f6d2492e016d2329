"""What a person sees belongs to what it stands under, and nobody's figure is overwritten by another's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from landscape.base.digits import with_interval

MINE = """
import torch
def network():
    return torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3))
def data():
    g = torch.Generator().manual_seed(0)
    def part(n, shift):
        x = torch.randn(n, 2, generator=g)
        return x, ((x[:, 0] > shift).long() + (x[:, 1] > 0).long())
    return {
        "train": {"left": part(20, -0.5), "right": part(12, 0.5)},
        "test": {"left": part(9, -0.5), "right": part(7, 0.5)},
    }
"""
NAMED = ("--model", "mine.py:network", "--data", "mine.py:data")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two checkpoints of one file name, and a run folder with a file among its checkpoints that is no step of it."""
    (tmp_path / "mine.py").write_text(MINE)
    for seed, name in enumerate(("sgd", "sam")):
        torch.manual_seed(seed)
        state = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3)).state_dict()
        (tmp_path / name).mkdir()
        torch.save(state, tmp_path / name / "model.pt")
    return tmp_path


def run_with(folder: Path, name: str) -> Path:
    """A run of two steps whose folder also holds a checkpoint of this name."""
    from landscape.api import train

    (run,) = train(
        folder / "runs", model="mine.py:network", data="mine.py:data", optimizer=("sgd",), seed=(0,), epochs=1
    )
    place = run.path / "checkpoints" / name
    if place.suffix == ".safetensors":
        shutil.copy(run.checkpoint(), place)
    else:
        shutil.copy(folder / "sgd" / "model.pt", place)
    return place


def test_a_summary_stands_under_its_own_split(landscape, folder: Path) -> None:
    said = landscape("domains", "sgd/model.pt", *NAMED)
    assert said.code == 0, said.err
    found = landscape("domains", "sgd/model.pt", *NAMED, "--json").json
    lines = said.out.splitlines()
    titles = [i for i, line in enumerate(lines) if line.startswith("split ")]
    assert [lines[i] for i in titles] == ["split train:", "split test:"]
    blocks = ["\n".join(lines[a:b]) for a, b in zip(titles, [*titles[1:], None], strict=True)]
    for block, of in zip(blocks, (found, found["splits"]["test"]), strict=True):
        assert f"mean loss {of['loss_mean']:.4g}, variance {of['loss_variance']:.4g}" in " ".join(block.split())
        assert block.count("mean loss") == 2  # seen and unseen, of this split alone
        for name, domain in of["domains"].items():
            (row,) = (line for line in block.splitlines() if line.split()[:1] == [name])
            told = with_interval(domain["loss"], domain["loss_low"], domain["loss_high"])
            assert told in row
    assert found["loss_mean"] != found["splits"]["test"]["loss_mean"]


def test_one_split_has_no_title(landscape, folder: Path) -> None:
    (folder / "mine.py").write_text(
        MINE.replace('        "test": {"left": part(9, -0.5), "right": part(7, 0.5)},\n', "")
    )
    said = landscape("domains", "sgd/model.pt", *NAMED)
    assert said.code == 0, said.err
    assert "split " not in said.out
    assert said.out.count("seen domains: mean loss") == 1


def test_a_figure_of_another_target_is_left_alone(landscape, folder: Path) -> None:
    words = ("--top", "1", "--allow-partial", "--figure", "eigenvalues", "--format", "svg", "--json", *NAMED)
    first = landscape("hessian", "sgd/model.pt", *words).json["figures"]
    assert [Path(f).name for f in first] == ["eigenvalues.svg", "eigenvalues.tex", "eigenvalues.csv"]
    before = [Path(f).read_bytes() for f in first]
    second = landscape("hessian", "sam/model.pt", *words).json["figures"]
    both = landscape("hessian", "sgd/model.pt", "sam/model.pt", *words).json["figures"]
    assert not {*first} & {*second}
    assert not {*first, *second} & {*both}
    assert [Path(f).read_bytes() for f in first] == before
    assert all(Path(f).is_file() for f in (*second, *both))
    otherwise = landscape("hessian", "sgd/model.pt", "--dtype", "float64", *words).json["figures"]
    assert not set(otherwise) & {*first, *second, *both}
    # The same targets draw over their own figure.
    assert landscape("hessian", "sgd/model.pt", *words).json["figures"] == first
    labels = {line.split(",")[0] for line in Path(both[-1]).read_text().splitlines()[1:]}
    assert labels == {"sgd/model.pt", "sam/model.pt"}


def test_plot_leaves_figures_of_others_alone_skips_what_a_format_cannot_show_and_says_its_notes(landscape, folder):
    named = ("--top", "1", "--allow-partial", "--json", *NAMED)
    stored = [landscape("hessian", f"{name}/model.pt", *named).json["result"] for name in ("sgd", "sam")]
    words = ("--kind", "eigenvalues", "--out", "drawn", "--format", "svg", "html")
    first, second = (landscape("plot", result, *words, "--json").json for result in stored)
    assert [Path(f).name for f in first["outputs"]] == ["eigenvalues.svg", "eigenvalues.tex", "eigenvalues.csv"]
    assert not {*first["outputs"]} & {*second["outputs"]}
    assert "an eigenvalues figure has no html form" in first["notes"]["eigenvalues"]
    said = landscape("plot", stored[0], *words)
    assert said.code == 0
    assert "no html form" in said.out
    refused = landscape("plot", stored[0], *words[:-2], "html")
    assert refused.code == 2
    assert "no eigenvalues figure can be shown as html" in refused.err


def test_a_figure_of_unknown_targets_is_left_alone(landscape, folder: Path) -> None:
    theirs = folder / "landscape-figures" / "domains.csv"
    theirs.parent.mkdir()
    theirs.write_text("drawn by `landscape plot`")
    said = landscape("domains", "sgd/model.pt", "--figure", "domains", "--format", "svg", "--json", *NAMED)
    assert all(Path(f).name.startswith("domains-") for f in said.json["figures"])
    assert theirs.read_text() == "drawn by `landscape plot`"


def test_a_name_is_taken_before_its_files_are_written(landscape, folder: Path, monkeypatch) -> None:
    """Killed in between, the next command draws over what is left, in place of beside it."""
    from landscape.base.files import write_bytes

    words = ("domains", "sgd/model.pt", "--figure", "domains", "--format", "svg", "--json", *NAMED)
    written: list[Path] = []

    def killed(path: Path, content: bytes) -> None:
        if written:
            raise KeyboardInterrupt
        write_bytes(path, content)
        written.append(path)

    with monkeypatch.context() as patch:
        patch.setattr("landscape.figures.render.write_bytes", killed)
        assert landscape(*words).code != 0
    assert [p.name for p in written] == ["domains.svg"]
    assert Path(landscape(*words).json["figures"][0]) == written[0].absolute()


def test_exports_of_one_name_stay_two_files(landscape, folder: Path) -> None:
    for name in ("sgd", "sam"):
        assert landscape("domains", f"{name}/model.pt", "--out", name, *NAMED).code == 0
        (stored,) = (folder / name).glob("*.nc")
        stored.rename(folder / name / "domains.nc")
    said = landscape("export", "sgd/domains.nc", "sam/domains.nc", "--format", "npz", "--json")
    outputs = said.json["outputs"]
    assert len(set(outputs)) == 2
    assert len({Path(p).read_bytes() for p in outputs}) == 2


@pytest.mark.parametrize("name", ["best.safetensors", "step-last.safetensors", "step-2.pt", "model.pt"])
def test_a_checkpoint_of_any_name_among_a_runs(name: str, landscape, folder: Path) -> None:
    place = run_with(folder, name)
    found = landscape("domains", place, "--json").json
    assert found["target"] == str(place)
    assert (found["run"]["optimizer"], found["run"]["step"], found["run"]["epoch"]) == ("sgd", None, None)
    curvature = landscape("hessian", place, "--top", "1", "--allow-partial", "--json").json
    assert curvature["edges_of_stability"]["gd"] == pytest.approx(2 / curvature["run"]["lr"])
    between = landscape("path", place, folder / "sam" / "model.pt", "--points", "3", "--json").json
    assert between["b_run"] is None
    named = landscape("surface", place, "--points", "3", "--direction", "pca:1", "pca:2")
    assert named.code in (0, 2), named.err  # one checkpoint spans no plane; that is said in a line


def test_a_run_that_does_not_say_its_optimizer_is_refused_before_any_work(landscape, folder: Path) -> None:
    place = run_with(folder, "model.pt")
    file = place.parent.parent / "run.json"
    record = json.loads(file.read_text())
    del record["spec"]["optimizer"]
    file.write_text(json.dumps(record))
    said = landscape("domains", place)
    assert said.code == 3
    assert "run.json does not say its optimizer and seed" in said.error
    assert not (place.parent.parent / "results").exists() or not list((place.parent.parent / "results").glob("*.nc"))


@pytest.mark.parametrize(
    ("over", "words"), [("batch", "examples in batches of 5 (train)"), ("example", "examples (train)")]
)
def test_the_table_says_what_the_mean_is_over(over: str, words: str):
    from landscape_cli.analysis import facts

    record = {"loss": 1.0, "n_examples": 12, "loss_over": over, "micro_batch": 5, "split": "train"}
    record |= {"n_parameters": 3, "dtype": "float32", "device": "cpu"}
    assert words in facts(type("Stored", (), {"record": record})())
