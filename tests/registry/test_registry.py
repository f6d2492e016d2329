from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

from landscape import registry
from landscape.base.errors import UsageError
from landscape.base.names import Entry, Registry, neighbours, unknown_name
from landscape.optim.core.build import method_defaults

REGISTRIES = {name: value for name, value in vars(registry).items() if isinstance(value, Registry)}
ENTRIES = [(r, e) for r in REGISTRIES for e in REGISTRIES[r]]


def test_all_registries_are_seen():
    assert {"OPTIMIZERS", "MODELS", "DATA", "LOSSES", "MEASURES", "DIRECTIONS", "FIGURES", "ANALYSES"} <= set(
        REGISTRIES
    )


@pytest.mark.parametrize(("of", "name"), ENTRIES)
def test_every_entry_loads_something_callable(of: str, name: str):
    found = REGISTRIES[of].load(name)
    assert callable(found)
    module, _, attribute = REGISTRIES[of][name].target.partition(":")
    assert getattr(sys.modules[module], attribute) is found


@pytest.mark.parametrize(("of", "name"), ENTRIES)
def test_every_entry_says_what_it_is_in_one_line(of: str, name: str):
    summary = REGISTRIES[of][name].summary
    assert 10 < len(summary) < 120
    assert "\n" not in summary


@pytest.mark.parametrize("name", list(registry.OPTIMIZERS))
def test_options_are_the_settings_of_the_constructor(name: str):
    """What the command line offers and what the class takes cannot drift apart."""
    assert list(method_defaults(name)) == list(registry.OPTIMIZERS[name].options)
    if name in ("sgd", "adam", "adamw"):
        return
    parameters = inspect.signature(registry.OPTIMIZERS.load(name)).parameters.values()
    settings = {p.name for p in parameters if p.kind is not p.VAR_KEYWORD and p.name != "base"}
    flags = {
        {"disam_variance": "variance", "langevin_noise": "noise"}.get(o, o) for o in registry.OPTIMIZERS[name].options
    }
    of_library_only = {"decouple", "lr_min", "lr_max"}  # the trainer's schedules end at 0 and start at --lr
    assert settings - of_library_only <= flags


@pytest.mark.parametrize("name", ["resnet20", "resnet32", "resnet44", "resnet56"])
def test_parameter_counts_in_summaries(name: str):
    model = registry.MODELS.load(name)()
    assert f"{sum(p.numel() for p in model.parameters()):,} parameters" in registry.MODELS[name].summary


@pytest.mark.parametrize(
    ("of", "wrong", "right"),
    [
        ("OPTIMIZERS", "sagmm", "sagm"),
        ("MODELS", "resnet-20", "resnet20"),
        ("DATA", "digits-rotatd", "digits-rotated"),
        ("LOSSES", "crossentropy", "cross_entropy"),
        ("MEASURES", "msharpness", "m-sharpness"),
        ("DIRECTIONS", "filters", "filter"),
    ],
)
def test_unknown_names_get_neighbours_and_the_whole_list(of: str, wrong: str, right: str):
    with pytest.raises(UsageError) as caught:
        REGISTRIES[of].load(wrong)
    text = str(caught.value)
    assert text.startswith(f"unknown {REGISTRIES[of].kind} {wrong!r}")
    assert "did you mean" in text.split("there is:", maxsplit=1)[0]
    assert repr(right) in text.split("there is:", maxsplit=1)[0]
    assert text.split("there is: ")[1] == ", ".join(REGISTRIES[of])
    assert caught.value.exit_code == 2
    assert wrong not in REGISTRIES[of]


def test_a_name_like_nothing_gets_the_list_alone():
    text = str(unknown_name("colour", "zzz", ["red", "blue"], "--colour"))
    assert text == "unknown colour 'zzz' (--colour): there is: red, blue"
    assert neighbours("zzz", ["red", "blue"]) == []
    assert neighbours("blueish", ["red", "blue"]) == ["blue"]


def test_get_works_as_for_any_mapping():
    """`Mapping.get` asks for a KeyError; the UsageError of an unknown name must not leak from it."""
    assert REGISTRIES["LOSSES"].get("mse").summary.startswith("squared error")
    assert REGISTRIES["LOSSES"].get("no such loss") is None


def test_registries_cannot_be_changed_from_outside():
    entries = {"a": Entry("math:sqrt", "square root of a number")}
    made = Registry("function", entries)
    entries["b"] = entries["a"]
    assert list(made) == ["a"]
    assert made.load("a")(9) == 3


def test_names_are_known_without_torch():
    rooms = ", ".join(
        f"landscape.{r}" for r in ("names", "registry", "specs", "errors", "files", "progress", "plugins")
    )
    code = f"import sys, {rooms}; print('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
    )
