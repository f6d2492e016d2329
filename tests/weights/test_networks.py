"""Several networks in one checkpoint: all are named, one is chosen, and none is taken for another."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from landscape.base.errors import DataError, UsageError
from landscape.weights.checkpoint import facts_of, read_weights
from landscape.weights.load_state_dict import load_into


def state(value: float, prefix: str = "") -> dict[str, Tensor]:
    return {f"{prefix}weight": torch.full((2, 3), float(value)), f"{prefix}bias": torch.full((2,), float(value))}


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def value_of(path: Path, key: str | None) -> float:
    model = nn.Linear(3, 2)
    load_into(model, read_weights(path, key), path)
    assert torch.equal(model.weight, torch.full((2, 3), float(model.bias[0].detach())))
    return float(model.bias[0].detach())


@pytest.mark.parametrize(
    ("content", "key", "expected"),
    [
        ({"model": state(1), "model_ema": state(2)}, None, 1),
        ({"model": state(1), "model_ema": state(2)}, "model", 1),
        ({"model": state(1), "model_ema": state(2)}, "ema", 2),
        ({"state_dict": state(1), "state_dict_ema": state(2), "arch": "x"}, "ema", 2),
        ({"state_dict": state(1), "state_dict_ema": state(2), "arch": "x"}, None, 1),
        ({"teacher": state(1), "student": state(2), "args": argparse.Namespace()}, "student", 2),
        ({"teacher": state(1), "student": state(2), "args": argparse.Namespace()}, "Teacher", 1),
        ({"nets": {"actor": state(1), "critic": state(2)}}, "critic", 2),
        ({"nets": {"actor": state(1), "critic": state(2)}}, "nets.critic", 2),
        ({"model": state(1), "swa": {**state(2, "module."), "n_averaged": torch.tensor(3)}}, "swa", 2),
        ({**state(2, "module."), "n_averaged": torch.tensor(3)}, None, 2),
        ({"state_dict": {**state(1, "student."), **state(2, "teacher.")}}, "teacher", 2),
        ({**state(1, "student."), **state(2, "ema_model.module.")}, "ema_model", 2),
        ({**state(1, "net."), **state(1, "copy.")}, None, 1),
        ({"model": {"state_dict": state(1)}, "ema": {"state_dict": state(2)}}, "ema", 2),
    ],
)
def test_a_natural_name_finds_the_network(content: Any, key: str | None, expected: float, tmp_path: Path) -> None:
    assert value_of(saved(tmp_path / "c.pt", content), key) == expected


@pytest.mark.parametrize(
    ("content", "key", "kind", "message"),
    [
        ({"teacher": state(1), "student": state(2)}, None, DataError, r"2 networks: teacher, student.*`key=NAME`"),
        ({"a_ema": state(1), "b_ema": state(2)}, "ema", UsageError, r"2 networks answer to 'ema': a_ema, b_ema"),
        ({"model": state(1), "ema": state(2)}, "emma", UsageError, r"did you mean 'ema'.*there is: model, ema"),
        (
            {"model": state(1), "ema": {"decay": 0.9, "shadow_params": list(state(2).values())}},
            "ema",
            DataError,
            r"'ema' holds tensors without names: 2 in a list \(shadow_params\).*copy_to.*save its state_dict",
        ),
        (state(1), "ema", UsageError, r"unknown network 'ema' \(`key=`, .*c.pt\)"),
        ({"epoch": 3}, "ema", DataError, r"no weights found in it; it holds: epoch"),
        (
            {**state(1, "student."), **state(2, "teacher.")},
            None,
            DataError,
            r"twice, beneath 'student' and 'teacher'",
        ),
    ],
)
def test_what_is_ambiguous_or_unknown_is_refused(
    content: Any, key: str | None, kind: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=message):
        value_of(saved(tmp_path / "c.pt", content), key)


def test_all_networks_are_named_the_chosen_one_first(tmp_path: Path) -> None:
    content = {"model": state(1), "model_ema": state(2), "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}}
    path = saved(tmp_path / "c.pt", content)
    assert facts_of(path)["networks"] == ["model", "model_ema"]
    assert facts_of(path, "ema")["networks"] == ["model_ema", "model"]
    assert facts_of(path, "ema")["weights_hash"] != facts_of(path)["weights_hash"]


def test_one_dictionary_under_two_names_is_two_networks(tmp_path: Path) -> None:
    same = state(1)
    path = saved(tmp_path / "c.pt", {"online": same, "target": same})
    with pytest.raises(DataError, match=r"2 networks: online, target"):
        read_weights(path)
    assert value_of(path, "target") == 1


def test_names_with_escapes_are_shown_as_text(tmp_path: Path) -> None:
    path = saved(tmp_path / "c.pt", {"a\x1b[2J": state(1), "b\n": state(2)})
    with pytest.raises(DataError) as caught:
        read_weights(path)
    assert "a\\x1b[2J, b\\n" in str(caught.value)


def test_keys_that_collide_without_their_prefixes_keep_them(tmp_path: Path) -> None:
    """Without '_orig_mod.' two keys would be one; then none is taken out, and what does not fit is named."""
    path = saved(tmp_path / "c.pt", {**state(1), "_orig_mod.weight": torch.zeros(2, 3)})
    with pytest.raises(DataError, match=r"1 unexpected key.*_orig_mod.weight"):
        value_of(path, None)
