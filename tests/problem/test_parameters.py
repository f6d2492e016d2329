from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from landscape.base.errors import UsageError
from landscape.problem.modes import evaluation_mode
from landscape.problem.parameters import ParameterSpace
from landscape.problem.wrappers import unwrapped
from landscape.runtime.random_state import preserved_random_state, seed_everything


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


@settings(deadline=None)
@given(seed=st.integers(0, 2**31))
def test_flatten_and_split_are_inverse_and_in_named_order(seed: int):
    model = net()
    space = ParameterSpace(model)
    vector = torch.randn(space.size, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(space.flatten(space.split(vector)), vector)
    assert list(space.named(vector)) == [k for k, _ in model.named_parameters()]
    space.write(vector)
    assert torch.equal(torch.nn.utils.parameters_to_vector(model.parameters()), vector)
    assert torch.equal(space.current(), vector)


def test_write_keeps_storage_and_current_is_a_copy():
    model = net()
    space = ParameterSpace(model)
    pointers = [p.data_ptr() for p in model.parameters()]
    kept = space.current()
    space.write(torch.zeros(space.size))
    assert [p.data_ptr() for p in model.parameters()] == pointers
    assert float(kept.abs().sum()) > 0
    assert all(p.requires_grad for p in model.parameters())


def test_none_stands_for_zeros():
    space = ParameterSpace(net())
    parts = [None, torch.ones(4), torch.ones(2, 4), None]
    assert space.flatten(parts).tolist() == [0] * 12 + [1] * 12 + [0] * 2


def test_patterns_match_anywhere():
    assert ParameterSpace(net(), "bias").names == ("0.bias", "2.bias")
    assert ParameterSpace(net(), r"^2\.|0\.b").names == ("0.bias", "2.weight", "2.bias")
    assert ParameterSpace(net(), "").size == 26


def test_tied_and_frozen():
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    model["b"].weight = model["a"].weight
    model["a"].bias.requires_grad_(False)
    space = ParameterSpace(model)
    assert space.names == ("a.weight", "b.bias")
    assert space.size == 12
    with pytest.raises(
        UsageError, match=r"no trainable parameter is selected by 'a.bias'.*`params=`.*there is: a\.weight, b\.bias"
    ):
        ParameterSpace(model, "a.bias")


def test_channels_last_weights():
    model = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    space = ParameterSpace(model)
    vector = torch.arange(float(space.size))
    space.write(vector)
    assert torch.equal(space.current(), vector)
    assert torch.equal(model.weight.detach().reshape(-1), vector[:108])


def test_evaluation_mode_gives_each_flag_back():
    model = net()
    model[0].eval()
    with pytest.raises(ZeroDivisionError), evaluation_mode(model):  # noqa: PT012
        assert not any(m.training for m in model.modules())
        raise ZeroDivisionError
    assert [m.training for m in model.modules()] == [True, False, True, True]


def test_random_state_is_given_back_also_after_an_error():
    def draws() -> tuple:
        return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002

    seed_everything(3)
    expected = draws()
    seed_everything(3)
    with pytest.raises(ZeroDivisionError), preserved_random_state():  # noqa: PT012
        draws()
        raise ZeroDivisionError
    assert draws() == expected


def test_seeds_are_keys():
    values = []
    for key in ((0, "init"), (0, "init"), (0, "step"), (1, "init"), (1, "step", 0)):
        with preserved_random_state():
            seed_everything(*key)
            values.append((random.random(), np.random.rand(), torch.rand(1).item()))  # noqa: NPY002
    assert values[0] == values[1]
    assert len(set(values)) == 4


def test_wrappers_come_off():
    model = net()
    assert unwrapped(nn.DataParallel(model)) is model
    assert unwrapped(torch.compile(model, backend="eager")) is model
    assert unwrapped(torch.compile(nn.DataParallel(model), backend="eager")) is model
    assert unwrapped(model) is model
