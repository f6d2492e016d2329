from __future__ import annotations

import dataclasses
import json
import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landscape.base.errors import UsageError
from landscape.specs import (
    DomainsSpec,
    HessianSpec,
    ProblemSpec,
    SharpnessSpec,
    Spec,
    SurfaceSpec,
    TrainSpec,
    key_values,
)
from landscape.specs.training import interval

SPECS = [DomainsSpec, HessianSpec, ProblemSpec, SharpnessSpec, SurfaceSpec, TrainSpec]
RICH = [
    HessianSpec(top=3, bottom=2, tol=1e-6, max_products=77, allow_partial=True),
    SharpnessSpec(m=(1, 8), rho=(0.05, 0.1), p="inf", adaptive=True),
    SurfaceSpec(dim=1, points=11, range=0.5, direction=("layer",), repeats=3),
    SurfaceSpec(direction=("filter", "unit")),
    ProblemSpec(
        model="mlp", model_arg=("hidden=3", "activation=tanh"), domain=("0", "15"), examples=5, dtype="float64"
    ),
    TrainSpec(
        optimizer=("sgd", "disam"), seed=(1, 2), base="adam", lam=0.2, batch_size="full", steps=7, holdout=("0",)
    ),
]


@pytest.mark.parametrize("spec", [*(S() for S in SPECS), *RICH], ids=repr)
def test_round_trip_through_a_recorded_configuration(spec: Spec):
    recorded = json.loads(json.dumps(spec.to_dict()))
    again = type(spec).from_dict(recorded)
    assert again.to_dict() == spec.to_dict()
    assert again.digest() == spec.digest()


def test_a_configuration_file():
    text = "top = 3\ntol = 1e-5\nallow-partial = true\nmax_products = 10"
    assert HessianSpec.from_dict(tomllib.loads(text)) == HessianSpec(
        top=3, tol=1e-5, allow_partial=True, max_products=10
    )
    assert TrainSpec.from_dict({"lr": 1, "batch-size": "full"}) == TrainSpec(lr=1.0, batch_size="full")
    assert isinstance(TrainSpec.from_dict({"lr": 1}).lr, float)


@pytest.mark.parametrize(
    ("spec", "mapping", "message"),
    [
        (HessianSpec, {"topp": 3}, r"unknown key 'topp' \(my\.toml\): did you mean 'top'.*there is: top, bottom"),
        (HessianSpec, {"top": "3"}, r"top = '3' has the wrong type \(my\.toml\): expected a whole number"),
        (HessianSpec, {"top": 3.0}, "top = 3.0 has the wrong type.*a whole number"),
        (HessianSpec, {"top": True}, "top = True has the wrong type"),
        (HessianSpec, {"allow_partial": 1}, "allow_partial = 1 has the wrong type.*true or false"),
        (HessianSpec, {"tol": "small"}, "expected a number"),
        (SharpnessSpec, {"m": 4}, "m = 4 has the wrong type.*a list of a whole number"),
        (SharpnessSpec, {"m": [1, "x"]}, "wrong type.*a list of a whole number"),
        (SharpnessSpec, {"p": "3"}, "expected '1' or '2' or 'inf'"),
        (TrainSpec, {"optimizer": "sgd"}, "a list of text"),
        (TrainSpec, {"batch_size": "half"}, "batch_size = 'half' has the wrong type.*a whole number or 'full'"),
        (TrainSpec, {"lr": None, "epochs": "3"}, "epochs = '3'"),
    ],
)
def test_configuration_errors_name_key_file_and_type(spec: type[Spec], mapping: dict, message: str):
    with pytest.raises(UsageError, match=message) as caught:
        spec.from_dict(mapping, "my.toml")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HessianSpec(top=0), r"top=0 \(`top=`\): expected a number >= 1"),
        (lambda: HessianSpec(bottom=-1), "`bottom=`.*>= 0"),
        (lambda: HessianSpec(tol=0.0), r"`tol=`.*> 0 and <= 1"),
        (lambda: HessianSpec(tol=float("nan")), "tol=nan"),
        (lambda: HessianSpec(tol=2.0), "`tol=`"),
        (lambda: HessianSpec(max_products=0), "`max_products=`.*>= 1"),
        (lambda: SharpnessSpec(m=(0,)), "`m=`.*>= 1"),
        (lambda: SharpnessSpec(m=(4, 4)), r"m has repeated values: \[4, 4\]"),
        (lambda: SharpnessSpec(rho=(-0.1,)), "`rho=`"),
        (lambda: SharpnessSpec(rho=(float("inf"),)), "rho=inf"),
        (lambda: SurfaceSpec(dim=3), "dim=3.*expected 1 or 2"),
        (lambda: SurfaceSpec(points=2), "`points=`.*>= 3"),
        (lambda: SurfaceSpec(range=0.0), "`range=`.*> 0"),
        (lambda: SurfaceSpec(direction=("filter",) * 3), "3 directions for 2 axes"),
        (lambda: SurfaceSpec(dim=1, direction=("filter", "unit")), "2 directions for 1 axes"),
        (lambda: SurfaceSpec(direction=("filtre",)), "unknown direction 'filtre' .*'filter'"),
        (lambda: SurfaceSpec(repeats=2), "`repeats=`.*add `dim=1`"),
        (lambda: ProblemSpec(dtype="float16"), "unknown dtype 'float16'.*float32, float64"),
        (lambda: ProblemSpec(device="gpu"), "unknown device 'gpu'.*auto, cpu, cuda or cuda:i"),
        (lambda: ProblemSpec(device="cuda:x"), "unknown device 'cuda:x'"),
        (lambda: ProblemSpec(examples=0), "`examples=`"),
        (lambda: ProblemSpec(model_arg=("hidden",)), r"'hidden' is not of the form k=v \(`model_arg=`\)"),
        (lambda: ProblemSpec(data_arg=("a=1", "a=2")), r"'a' is given twice \(`data_arg=`\)"),
        (lambda: TrainSpec(optimizer=("smm",)), "unknown optimizer 'smm'.*did you mean"),
        (lambda: TrainSpec(optimizer=()), "optimizer is empty"),
        (lambda: TrainSpec(optimizer=("sgd", "sgd")), "repeated values"),
        (lambda: TrainSpec(seed=(0, 0)), "seed has repeated values"),
        (lambda: TrainSpec(seed=(-1,)), "`seed=`"),
        (lambda: TrainSpec(lr=float("nan")), "lr=nan"),
        (lambda: TrainSpec(momentum=1.5), "`momentum=`"),
        (lambda: TrainSpec(epochs=3, steps=4), "`epochs=` and `steps=` contradict each other"),
        (lambda: TrainSpec(batch_size=0), "`batch_size=`"),
        (lambda: TrainSpec(schedule="cosin"), "unknown schedule 'cosin'.*'cosine'"),
        (lambda: TrainSpec(base="adamax", optimizer=("sam",)), "unknown base 'adamax'"),
        (
            lambda: TrainSpec(rho=0.1),
            r"`rho=` is used by none of the chosen optimizers \(`optimizer=\('sgd',\)`\).*sam, sagm, disam",
        ),
        (lambda: TrainSpec(optimizer=("sam",), lam=0.1), "`lam=` is used by none.*it belongs to disam"),
        (lambda: TrainSpec(optimizer=("adam",), base="sgd"), "`base=` is for methods that wrap"),
        (lambda: TrainSpec(optimizer=("sam",), base="adam", momentum=0.5), "`momentum=` belongs to sgd"),
        (lambda: TrainSpec(save_every="often"), "'often' is no interval.*100steps or 5epochs"),
        (lambda: TrainSpec(save_every="0steps"), "no interval"),
    ],
)
def test_values_are_checked_with_the_name_and_what_is_allowed(make, message: str):
    with pytest.raises(UsageError, match=message) as caught:
        make()
    assert caught.value.exit_code == 2


def test_specs_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        HessianSpec().top = 3


# -- keys ------------------------------------------------------------------------------------------------------------


def test_keys_are_stable_across_machines_and_releases():
    """A changed default or a changed hash orphans every stored result; change these on purpose only."""
    assert HessianSpec().digest() == HessianSpec(top=5, bottom=0, tol=0.001).digest()
    assert len({s.digest() for s in RICH}) == len(RICH)
    assert ProblemSpec().digest() == ProblemSpec.from_dict({}).digest()


@pytest.mark.parametrize("spec", [*(S() for S in SPECS if S is not DomainsSpec)], ids=lambda s: type(s).__name__)
def test_every_field_counts_except_those_that_change_speed_only(spec: Spec):
    changed = {
        int: 7,
        float: 0.017,
        bool: None,  # the other one
        str: "float64",
        "tuple": ("x",),
    }
    free = {
        "ProblemSpec": {"batch_size", "logit_chunk", "shard"},
        "HessianSpec": {"memory"},
        "TrainSpec": {"save_every", "workers", "tensorboard"},
    }.get(type(spec).__name__, set())
    for field in dataclasses.fields(spec):
        value = getattr(spec, field.name)
        kind = "tuple" if isinstance(value, tuple) else type(value)
        if kind not in changed and value is not None:
            continue
        new = {**spec.to_dict(), field.name: not value if kind is bool else changed.get(kind, 9)}
        other = object.__new__(type(spec))
        for name, item in new.items():
            object.__setattr__(other, name, item)
        if isinstance(spec, SurfaceSpec) and field.name in ("dim", "direction"):
            continue
        assert (other.digest() == spec.digest()) == (field.name in free), field.name


def test_the_micro_batch_is_no_part_of_the_key():
    assert ProblemSpec(batch_size=3).digest() == ProblemSpec(batch_size=4).digest() == ProblemSpec().digest()
    assert ProblemSpec(examples=3).digest() != ProblemSpec(examples=4).digest()


@pytest.mark.parametrize("fixed", [{"mode": "train"}, {"loss_over": "batch"}], ids=str)
def test_the_batch_is_part_of_the_key_where_the_loss_depends_on_it(fixed):
    assert ProblemSpec(batch_size=3, **fixed).digest() != ProblemSpec(batch_size=4, **fixed).digest()


def test_one_direction_for_both_axes_is_the_same_request():
    assert SurfaceSpec(direction=("unit",)).digest() == SurfaceSpec(direction=("unit", "unit")).digest()
    assert SurfaceSpec(direction=("unit",)).axes == ("unit", "unit")
    assert SurfaceSpec(direction=("unit",), dim=1).axes == ("unit",)


# -- runs ------------------------------------------------------------------------------------------------------------


def test_each_run_keeps_only_what_its_method_uses():
    spec = TrainSpec(optimizer=("sgd", "adam", "sam", "disam"), seed=(3, 4), rho=0.1, lam=0.2, base="adamw")
    runs = {r.name: r for r in spec.runs()}
    assert list(runs) == [f"{o}-seed{s}" for o in ("sgd", "adam", "sam", "disam") for s in (3, 4)]
    assert (runs["sgd-seed3"].rho, runs["sgd-seed3"].lam, runs["sgd-seed3"].base) == (None, None, None)
    assert (runs["sam-seed4"].rho, runs["sam-seed4"].lam, runs["sam-seed4"].base) == (0.1, None, "adamw")
    assert (runs["disam-seed3"].rho, runs["disam-seed3"].lam) == (0.1, 0.2)
    assert {n: r.lr for n, r in runs.items() if r.seed == (3,)} == {
        "sgd-seed3": 0.05,
        "adam-seed3": 1e-3,
        "sam-seed3": 1e-3,
        "disam-seed3": 1e-3,
    }
    assert (runs["sgd-seed3"].momentum, runs["adam-seed3"].momentum, runs["sam-seed3"].momentum) == (0.9, None, None)
    assert runs["sgd-seed3"].epochs == 30
    assert next(TrainSpec(steps=5).runs()).epochs is None
    assert next(TrainSpec(momentum=0.0).runs()).momentum == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, None),
        ("5", (5, "steps")),
        ("5steps", (5, "steps")),
        ("1step", (1, "steps")),
        ("2epochs", (2, "epochs")),
        ("1epoch", (1, "epochs")),
    ],
)
def test_intervals(text: str | None, expected):
    assert interval(text) == expected


def test_key_values_are_toml_else_text():
    pairs = ["n=3", "x=0.5", "flag=true", "list=[1, 2]", 'quoted="a=b"', "plain=relu", "path=a/b=c", "empty="]
    assert key_values(pairs, "model_arg") == {
        "n": 3,
        "x": 0.5,
        "flag": True,
        "list": [1, 2],
        "quoted": "a=b",
        "plain": "relu",
        "path": "a/b=c",
        "empty": "",
    }


@settings(deadline=None)
@given(
    st.dictionaries(
        st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True),
        st.integers(-(10**12), 10**12) | st.booleans() | st.floats(allow_nan=False, allow_infinity=False),
    )
)
def test_key_values_round_trip(values: dict):
    text = [f"{k}={str(v).lower() if isinstance(v, bool) else repr(v)}" for k, v in values.items()]
    assert key_values(text, "model_arg") == values


def test_a_value_that_looks_like_several_lines_of_toml_is_text():
    assert key_values(["a=1\nb = 2"], "model_arg") == {"a": "1\nb = 2"}
