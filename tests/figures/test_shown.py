"""Figures name what they show: labels belong to their bars, and files of one name are not one method."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex

from figures import made
from landscape.figures.comparison import comparison
from landscape.figures.draw.drawing import Drawing
from landscape.figures.draw.method_styles import FIXED
from landscape.figures.draw.series import by_label, named_apart, runs_apart
from landscape.figures.draw.style import Style
from landscape.figures.render import fitting
from landscape.figures.summary import summarize
from landscape.registry import FIGURES
from landscape.results.result import Result


def draw(kind: str, results: list[Result]) -> Drawing:
    return FIGURES.load(kind)(fitting(kind, results), Style())


def lost(label: str, ranks: list[int]) -> Result:
    result = made.hessian(label, 0)
    result.data["eigenvalues"].values[ranks] = np.nan
    return result


@pytest.mark.parametrize(
    ("results", "names"),
    [
        ([made.hessian("sgd", 0), lost("sam", [0]), made.hessian("disam", 0)], ["sgd", "sam", "disam"]),
        ([lost("sgd", [0]), made.hessian("sam", 0)], ["sgd", "sam"]),
        ([made.hessian("sgd", 0), lost("sam", [0, 1, 2]), made.hessian("disam", 0)], ["sgd", "disam"]),
        ([lost("sgd", [0, 1]), lost("sam", [1, 2]), lost("disam", [0, 2])], ["sgd", "sam", "disam"]),
    ],
)
def test_a_bar_has_the_label_of_its_method_whatever_value_is_lost(results: list[Result], names: list[str]):
    drawing = draw("eigenvalues", results)
    (legend,) = drawing.figure.legends
    texts = [t.get_text().partition(" (")[0].lower() for t in legend.get_texts()]
    colours = [to_hex(h.get_facecolor()).upper() for h in legend.get_patches()]
    assert texts == names
    assert colours == [FIXED[n].colour for n in names]


def bare(target: str, top: float, **more: object) -> Result:
    result = made.hessian("x", None, top, weights_hash=target)
    del result.record["label"]
    result.record |= {"target": target, **more}
    return result


def test_files_of_one_name_are_not_seeds_of_one_method():
    """Their eigenvalues are 2 and 8; a mean of 5 belongs to nobody."""
    drawing = draw("eigenvalues", [bare("/a/sgd/model.pt", 2.0), bare("/a/sam/model.pt", 8.0)])
    means = {row["label"]: row["eigenvalue"] for row in drawing.rows if row["seed"] == "mean" and row["rank"] == 1}
    assert means == {"sgd/model.pt": 2.0, "sam/model.pt": 8.0}


def test_as_much_of_a_path_as_tells_files_apart():
    labels = [r.label for r in named_apart([bare(f"/x/{n}/final/model.pt", 1.0) for n in ("a", "b", "c")])]
    assert labels == ["a/final/model.pt", "b/final/model.pt", "c/final/model.pt"]
    # Names of their own stay: other files, runs, and labels that somebody gave.
    alone = [bare("/x/a/model.pt", 1.0), bare("/x/a/model.pt", 1.0), bare("/x/b/other.pt", 1.0)]
    assert [r.label for r in named_apart(alone)] == ["model.pt", "model.pt", "other.pt"]
    given = [bare(f"/x/{n}/model.pt", 1.0, label="mine") for n in "ab"]
    assert [len(v) for v in by_label(named_apart(given))[0].values()] == [2]
    runs = [made.hessian("sam", s) for s in (0, 1)]
    assert named_apart(runs) == runs


def test_results_of_no_file_are_told_apart_by_their_weights():
    first, second = (made.hessian("x", None, top, weights_hash=h * 8) for top, h in ((1.0, "a"), (2.0, "b")))
    for result in (first, second):
        result.record |= {"target": None, "label": None}
    labels = [r.label for r in named_apart([first, second])]
    assert labels == ["hessian of weights aaaaaaaa", "hessian of weights bbbbbbbb"]
    assert first.record["label"] is None  # the caller's results stay what they are


def test_foreign_surfaces_of_one_name(tmp_path: Path):
    results = []
    for folder in ("vgg", "resnet"):
        result = made.plane("model", None)
        result.record |= {"target": str(tmp_path / folder / "model.h5"), "label": "model"}
        results.append(result)
    drawing = draw("contour", results)
    assert {row["label"] for row in drawing.rows} == {"vgg/model.h5", "resnet/model.h5"}


def of(network: str | None, data: str | None, label: str, seed: int, top: float) -> Result:
    result = made.hessian(label, seed, top)
    result.record["run"] |= {"path": f"/runs/{network}-{data}-{label}-{seed}", "network": network, "data": data}
    return result


def means(drawing: Drawing) -> dict[str, float]:
    return {row["label"]: row["eigenvalue"] for row in drawing.rows if row["seed"] == "mean" and row["rank"] == 1}


@pytest.mark.parametrize("seeds", [(0, 0), (0, 1)])
def test_runs_of_other_networks_are_not_seeds_of_one_method(seeds: tuple[int, int]):
    """Of one seed one of them was lost, with a note that it was the same run; of two seeds their mean was drawn."""
    results = [of(n, "d", "sam", seed, top) for n, seed, top in zip(("mlp", "vit"), seeds, (2.0, 8.0), strict=True)]
    drawing = draw("eigenvalues", results)
    assert means(drawing) == {"sam (network=mlp)": 2.0, "sam (network=vit)": 8.0}
    assert not [note for note in drawing.notes if "not drawn" in note]
    (legend,) = drawing.figure.legends
    assert [t.get_text() for t in legend.get_texts()] == ["SAM (network mlp) (1 seed)", "SAM (network vit) (1 seed)"]
    assert [(r["name"], r["lambda_max_mean"]) for r in summarize(results)] == [
        ("SAM (network=mlp)", 2.0),
        ("SAM (network=vit)", 8.0),
    ]
    assert [r.label for r in results] == ["sam", "sam"]  # the caller's results stay what they are


@pytest.mark.parametrize(
    ("made_of", "labels"),
    [
        ([("mlp", "a"), ("mlp", "a")], ["sam"]),
        ([("mlp", "a"), (None, None)], ["sam"]),
        ([("mlp", "a"), ("mlp", "b")], ["sam (data=a)", "sam (data=b)"]),
        ([("mlp", "a"), ("vit", "b")], ["sam (network=mlp)", "sam (network=vit)"]),
        (
            [("mlp", "a"), ("mlp", "b"), ("vit", "a")],
            ["sam (network=mlp, data=a)", "sam (network=mlp, data=b)", "sam (network=vit, data=a)"],
        ),
        ([("/x/a.py:net", "d"), ("/x/b.py:net", "d")], ["sam (network=a)", "sam (network=b)"]),
        ([("/x/a.py:net w=1", "d"), ("/x/a.py:net w=2", "d")], ["sam (network=a w=1)", "sam (network=a w=2)"]),
        ([("/x/a.py:net", "d"), ("/x/a.py:big", "d")], ["sam (network=a:big)", "sam (network=a:net)"]),
        ([("/x/a.py:net", "d"), ("/y/a.py:net", "d")], ["sam (network=/x/a:net)", "sam (network=/y/a:net)"]),
    ],
)
def test_what_tells_runs_apart(made_of: list[tuple[str | None, str | None]], labels: list[str]):
    results = [of(*kind, "sam", seed, 1.0 + seed) for seed, kind in enumerate(made_of)]
    groups, _ = by_label(results)
    assert list(groups) == labels
    assert sum(map(len, groups.values())) == len(results)
    assert [r.label for r in runs_apart(runs_apart(results))] == [r.label for r in runs_apart(results)]


def test_a_run_has_one_label_whatever_its_results_say():
    known, other = of("mlp", "a", "sam", 0, 2.0), of("vit", "a", "sam", 0, 8.0)
    silent = made.sharpness("sam", 0)
    silent.record["run"] |= {"path": known.record["run"]["path"]}
    assert [r.label for r in runs_apart([silent, known, other])] == [
        "sam (network=mlp)",
        "sam (network=mlp)",
        "sam (network=vit)",
    ]


def test_methods_are_compared_on_the_same_network():
    """SAM's eigenvalue is half of SGD's on each network; across them it would be twenty times as large."""
    results = [
        of(network, "d", label, seed, top)
        for network, scale in (("mlp", 1.0), ("vit", 40.0))
        for label, top in (("sgd", scale), ("sam", scale / 2))
        for seed in (0, 1)
    ]
    told = [s for s in comparison(summarize(results), results) if "times" in s]
    assert [s.partition(" (2 of 2")[0] for s in told] == [
        f"SAM (network={n})'s λ_max is 0.50 times SGD (network={n})'s" for n in ("mlp", "vit")
    ]
    alone = [r for r in results if (r.record["run"]["network"], r.label) != ("vit", "sgd")]
    assert any(
        s.startswith("SAM (network=vit): cannot tell, there is no ERM baseline")
        for s in comparison(summarize(alone), alone)
    )
