from __future__ import annotations

import math
import tomllib
from pathlib import Path

import pytest

from landscape.base.errors import UsageError
from landscape.specs.cells import spread
from landscape.specs.seeds import SeedsSpec
from landscape.specs.study import Experiment
from landscape.study.shipped import find, shipped
from landscape.study.statistics.comparison import undecidable

BASE = """
name = "x"
[train]
data = "digits-rotated"
epochs = 2
[grid]
optimizer = ["sgd", "sam"]
lr = [0.1, 0.2]
rho = [0.05, 0.1]
[seeds]
init = [0, 1]
[[analyses]]
kind = "sharpness"
measure = ["m-sharpness"]
m = [16]
examples = 64
"""


def read(text: str, **options) -> Experiment:
    return Experiment.from_content(tomllib.loads(text), "my.toml", **options)


def test_a_grid_is_every_combination_and_each_training_once():
    experiment = read(BASE)
    assert len(experiment.cells) == 2 * (2 + 4)  # SGD has no radius
    first = experiment.cells[0]
    assert first.axes == {"optimizer": "sgd", "lr": 0.1, "rho": None}
    assert first.spec.rho is None
    assert first.configuration == "optimizer=sgd lr=0.1"
    assert [c.repetition for c in experiment.cells] == [0] * 6 + [1] * 6  # whole repetitions first
    assert {c.spec.seed for c in experiment.cells} == {(0,), (1,)}
    assert len({c.name for c in experiment.cells}) == 12
    assert all(c.spec.epochs == 2 and c.spec.momentum == 0.9 for c in experiment.cells)  # no open defaults


def test_names_depend_on_what_is_trained_alone():
    names = {c.name for c in read(BASE).cells}
    more = {c.name for c in read(BASE.replace("[0, 1]", "[0, 1, 2]")).cells}
    assert names < more
    other = {c.name for c in read(BASE.replace("epochs = 2", "epochs = 3")).cells}
    assert not names & other
    assert {c.name for c in read(BASE + '[report]\noutcomes = ["gap_loss"]').cells} == names


def test_arms_set_several_things_at_once():
    experiment = read(
        """
        name = "x"
        [train]
        momentum = 0.8
        rho = 0.07
        [[arms]]
        name = "ERM"
        [[arms]]
        name = "ERM, twice as long"
        epochs = 60
        [[arms]]
        name = "Adam"
        optimizer = "adam"
        [[arms]]
        name = "SAM, m = 16"
        optimizer = "sam"
        m = 16
        """
    )
    by = {c.arm: c for c in experiment.cells}
    assert by["ERM, twice as long"].spec.epochs == 60
    assert by["Adam"].spec.momentum is None  # adam has none
    assert (by["SAM, m = 16"].spec.m, by["SAM, m = 16"].spec.rho) == (16, 0.07)
    assert by["ERM"].spec.rho is None
    assert by["ERM"].axes == {"arm": "ERM"}
    assert by["SAM, m = 16"].name.startswith("sam-m-16-")


def test_random_draws_are_the_same_for_every_arm_and_stay_when_others_are_added():
    text = """
    name = "x"
    [grid]
    optimizer = ["sgd", "sam"]
    [random]
    draws = 5
    seed = 3
    lr = { log_uniform = [0.001, 0.1] }
    batch_size = { choice = [16, 32] }
    weight_decay = { uniform = [0.0, 0.1] }
    epochs = { integer = [2, 4] }
    """
    cells = read(text).cells
    assert len(cells) == 10
    draws = {o: [c.axes for c in cells if c.axes["optimizer"] == o] for o in ("sgd", "sam")}
    assert [d | {"optimizer": 0} for d in draws["sgd"]] == [d | {"optimizer": 0} for d in draws["sam"]]
    assert all(0.001 <= c.spec.lr <= 0.1 and c.spec.epochs in (2, 3, 4) for c in cells)
    longer = [c.axes for c in read(text.replace("draws = 5", "draws = 9")).cells if c.axes["optimizer"] == "sgd"]
    assert longer[:5] == draws["sgd"]
    assert math.prod(len({c.axes[k] for c in cells}) > 1 for k in ("lr", "weight_decay"))


def test_seeds_are_kept_apart():
    experiment = read(BASE.replace("init = [0, 1]", "init = [5]\norder = [0, 1, 2]\nsplit = 7".replace("7", "[7]")))
    specs = [c.spec for c in experiment.cells if c.axes == {"optimizer": "sgd", "lr": 0.1, "rho": None}]
    assert [(s.seed, s.order_seed, s.data_arg) for s in specs] == [
        ((5,), 0, ("split_seed=7",)),
        ((5,), 1, ("split_seed=7",)),
        ((5,), 2, ("split_seed=7",)),
    ]
    assert SeedsSpec(init=(0, 1), order=(0, 5)).repetitions() == [(0, 0, None), (1, 5, None)]


def test_the_weights_at_the_start_are_kept_where_they_are_needed():
    assert read(BASE).cells[0].spec.save_every is None
    kept = read(BASE.replace('["m-sharpness"]\nm = [16]', '["distance-from-start"]'))
    assert kept.cells[0].spec.save_every is not None
    kept = read(BASE.replace("examples = 64", 'checkpoint = "start"'))
    assert kept.cells[0].spec.save_every is not None


def test_analyses_keep_their_numbers_under_everything_that_defines_them():
    (one,) = read(BASE).analyses
    (same,) = read(BASE.replace("0.1, 0.2", "0.3, 0.4")).analyses
    (other,) = read(BASE.replace("m = [16]", "m = [8]")).analyses
    (fewer,) = read(BASE.replace("examples = 64", "examples = 32")).analyses
    assert one.key(0) == same.key(0)
    assert len({one.key(0), one.key(1), other.key(0), fewer.key(0)}) == 4


def test_sizes_and_changes():
    text = BASE + "[tiny]\ntrain = { epochs = 1 }\ngrid = { lr = [0.1] }\n"
    tiny = read(text, size="tiny")
    assert len(tiny.cells) == 6
    assert {c.spec.epochs for c in tiny.cells} == {1}
    assert tiny.size == "tiny"
    changed = read(BASE, changes=("train.epochs=7", "grid.lr=[0.3]", "train.data=digits"))
    assert {(c.spec.epochs, c.spec.lr, c.spec.data) for c in changed.cells} == {(7, 0.3, "digits")}
    with pytest.raises(UsageError, match=r"no tiny size.*add \[tiny\]"):
        read(BASE, size="tiny")
    with pytest.raises(UsageError, match=r"'epochs' changes nothing.*`changes='train\.epochs=3'`"):
        read(BASE, changes=("epochs",))


def test_a_few_models_are_spread_over_the_study():
    cells = read(BASE).cells
    assert [cells.index(c) for c in spread(cells, 3)] == [0, 4, 8]
    assert list(spread(cells, None)) == list(cells)
    assert list(spread(cells, 99)) == list(cells)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("[train]", "[trian]", r"unknown key 'trian' \(my.toml\): did you mean 'train'"),
        ("epochs = 2", "epoch = 2", r"unknown key 'epoch' \(my.toml.*did you mean 'epochs'"),
        ("epochs = 2", 'epochs = "2"', r"epochs = '2' has the wrong type \(my.toml\): expected a whole number"),
        ("epochs = 2", "epochs = 0", r"epochs=0 \(my.toml, `epochs=`\): expected a number >= 1"),
        ("epochs = 2", "seed = [1]", r"seed does not belong into a study's \[train\] \(my.toml\): use \[seeds\]"),
        ("epochs = 2", "leave_one_out = true", r"use \[grid\] holdout"),
        ("epochs = 2", "lam = 0.1", r"lam is used by none of the optimizers \(my.toml\): it belongs to disam"),
        ('"sam"]', '"smm"]', "unknown optimizer 'smm'.*did you mean"),
        ("lr = [0.1, 0.2]", "lr = 0.1", r"lr = 0.1 \(my.toml, \[grid\]\): expected a list of values"),
        ("lr = [0.1, 0.2]", "lr = [0.1, 0.1]", "lr has repeated values"),
        ("lr = [0.1, 0.2]", "learning_rate = [0.1]", "unknown key 'learning_rate'"),
        ("init = [0, 1]", "init = [0, 0]", "two repetitions have the same seeds"),
        ("init = [0, 1]", "init = [0, 1]\norder = [1, 2, 3]", "has 2 seeds and another list 3|has 3 seeds"),
        ("init = [0, 1]", "inits = [0]", r"unknown key 'inits' \(my.toml, \[seeds\]\)"),
        ('kind = "sharpness"', 'kind = "sharpnes"', "unknown kind 'sharpnes'.*did you mean 'sharpness'"),
        ("m = [16]", "mm = [16]", r"unknown key 'mm' \(my.toml, analyses\[0\]\)"),
        ("m = [16]", "m = [0]", r"m=0 \(my.toml, analyses\[0\], `m=`\)"),
        ('"m-sharpness"]', '"n-sharpness"]', "unknown measure 'n-sharpness'"),
        ("m = [16]", "seed = 3", r"an analysis has no seed of its own \(my.toml, analyses\[0\]\)"),
        ("m = [16]", 'checkpoint = "first"', "checkpoint = 'first'.*expected last, start, best"),
        ("m = [16]", "models = 0", "models = 0"),
        ('name = "x"', 'name = "../x"', "give the study a name of letters"),
        ('name = "x"', "", "give the study a name of letters"),
        ("[grid]", '[[arms]]\noptimizer = "sgd"\n[grid]', r"an arm has no name \(my.toml, arms\[0\]\)"),
        ("[grid]", '[[arms]]\nname = "a"\nlr = 0.1\n[grid]', r"lr stands in \[grid\] and in arm 'a'"),
        ("[grid]", "[random]\ndraws = 0\n[grid]", "draws = 0"),
        ("[grid]", "[random]\ndraws = 2\nlr = { normal = [0, 1] }\n[grid]", "expected { choice | uniform"),
        ("[grid]", "[random]\ndraws = 2\nlr = { log_uniform = [0, 1] }\n[grid]", "positive for a logarithm"),
        ("[grid]", "[pretrain]\nmodel = 'mlp'\n[grid]", r"model does not belong into \[pretrain\]"),
        ("[grid]", "[pretrain]\nlr = -1\n[grid]", r"lr=-1\.0 \(my.toml, \[pretrain\], `lr=`\)"),
        ("epochs = 2", "init = 'w.pt'\n[pretrain]\nepochs = 1", r"init stands beside \[pretrain\]"),
        ("[seeds]", "[report]\noutcome = 3\n[seeds]", r"unknown key 'outcome' \(my.toml, \[report\]\)"),
        ("[seeds]", "[report]\nbootstrap = 3\n[seeds]", r"bootstrap = 3 \(.*: expected a whole number >= 100"),
    ],
)  # fmt: skip
def test_errors_are_one_line_that_names_file_and_key(before: str, after: str, message: str):
    assert before in BASE
    with pytest.raises(UsageError, match=message) as caught:
        read(BASE.replace(before, after, 1))
    assert "\n" not in str(caught.value)


def test_an_arm_that_names_a_setting_its_optimizer_lacks_is_refused():
    with pytest.raises(UsageError, match=r"`rho=` is used by none.*\(my.toml, arm 'plain'"):
        read('name = "x"\n[[arms]]\nname = "plain"\nrho = 0.1\n')


def test_files_that_are_none(tmp_path: Path):
    with pytest.raises(UsageError, match=r"no such experiment file.*list studies"):
        find(str(tmp_path / "none.toml"))
    with pytest.raises(UsageError, match="did you mean 'flatness-vs-generalization'"):
        find("flatness-vs-generalisation")
    broken = tmp_path / "broken.toml"
    broken.write_text("name = ")
    with pytest.raises(UsageError, match=r"no TOML.*broken.toml"):
        Experiment.read(broken)


@pytest.mark.parametrize("name", list(shipped()))
@pytest.mark.parametrize("size", ["full", "tiny"])
def test_shipped_experiments_are_whole(name: str, size: str):
    experiment = Experiment.read(find(name), size=size)
    assert experiment.name == name
    assert experiment.cells
    assert experiment.analyses or any(c.spec.probe for c in experiment.cells)
    if size == "full":
        assert undecidable(experiment.cells, experiment.report) == []
    for text in (experiment.title, experiment.claim, experiment.refuted_by, experiment.decides):
        assert len(text) > 20
