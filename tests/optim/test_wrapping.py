"""An optimizer around an optimizer is one: groups, defaults, state, copies; and bases that cannot be wrapped."""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler as S
from torch.optim.swa_utils import SWALR, AveragedModel

from landscape.base.errors import UsageError
from landscape.optim import ASAM, ERM, FSAM, GSAM, SAGM, SAM, WSAM, BatchLoss, EntropySGD, LookSAM, VREx

from .problems import METHODS, Nothing, assert_same_bits, close, closure_of, sgd, smooth


def adam(model: nn.Module) -> torch.optim.Adam:
    return torch.optim.Adam(model.named_parameters(), lr=0.02)


def halves(model: nn.Sequential) -> tuple[list[Any], list[Any]]:
    named = list(model.named_parameters())
    return named[:2], named[2:]


def go(optimizer: ERM, model: nn.Module, steps: int = 3) -> dict[str, Tensor]:
    for _ in range(steps):
        optimizer.step(closure_of(model))
    return {k: v.clone() for k, v in model.state_dict().items()}


# -- groups ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("decay", [False, True])
@pytest.mark.parametrize("to", ["wrapper", "base"])
def test_a_group_added_later_is_one_from_the_start(method: str, decay: bool, to: str):
    """Weight decay in the passes, names and radii included; added to either of the two."""
    ends = []
    for later in (False, True):
        model = smooth()
        first, second = halves(model)
        common: dict[str, Any] = {"weight_decay_in_perturbation": decay}
        settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.3}
        groups = [{"params": first}] if later else [{"params": first}, {"params": second, "lr": 0.05}]
        optimizer = METHODS[method](torch.optim.SGD(groups, **settings), rho=0.3, **common)
        if later:
            (optimizer if to == "wrapper" else optimizer.base).add_param_group({"params": second, "lr": 0.05})
        torch.manual_seed(0)
        optimizer._seed = 1  # Entropy-SGD's noise, which is off
        ends.append(go(optimizer, model))
        assert [g.get("perturbed_weight_decay") for g in optimizer.param_groups] == [0.3 if decay else None] * 2
    assert_same_bits(*ends)


@pytest.mark.parametrize("method", list(METHODS))
def test_a_group_added_between_steps(method: str, tmp_path):
    """What a method remembers knows nothing of the new one, and all of it can be saved and loaded."""
    ends = []
    for interrupted in (False, True):
        model = smooth()
        first, second = halves(model)
        optimizer = METHODS[method](torch.optim.SGD(first, lr=0.1, momentum=0.9), rho=0.3)
        go(optimizer, model)
        before = model[2].weight.detach().clone()
        optimizer.add_param_group({"params": second})
        go(optimizer, model, 1)
        assert not torch.equal(model[2].weight, before)
        if interrupted:
            torch.save(optimizer.state_dict(), tmp_path / "state.pt")
            optimizer = METHODS[method](torch.optim.SGD(first, lr=9.0), rho=0.9)
            optimizer.add_param_group({"params": second})
            optimizer.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        ends.append(go(optimizer, model))
    assert_same_bits(*ends)


@pytest.mark.parametrize("method", list(METHODS))
def test_groups_that_are_replaced_are_the_bases(method: str):
    model, twin = smooth(), smooth()
    optimizer, other = (METHODS[method](sgd(m), rho=0.3) for m in (model, twin))
    optimizer.param_groups = [{**optimizer.param_groups[0], "lr": 0.01}]
    other.base.param_groups = [{**other.param_groups[0], "lr": 0.01}]
    assert optimizer.param_groups is optimizer.base.param_groups
    assert other.param_groups[0]["lr"] == 0.01
    assert_same_bits(go(optimizer, model), go(other, twin))


def test_asam_adds_no_group_without_names():
    model = smooth()
    first, second = halves(model)
    optimizer = ASAM(torch.optim.SGD(first, lr=0.1))
    with pytest.raises(ValueError, match="without names"):
        optimizer.add_param_group({"params": [p for _, p in second]})
    assert len(optimizer.param_groups) == 1


def test_a_group_that_a_method_cannot_take_is_not_added():
    model = smooth()
    first, second = halves(model)
    for bad in ({"rho": math.nan}, {"rho": -1.0}, {"maximize": True}):
        optimizer = SAM(torch.optim.SGD(first, lr=0.1))
        with pytest.raises(UsageError):
            optimizer.add_param_group({"params": second, **bad})
        assert len(optimizer.base.param_groups) == 1


# -- schedulers ------------------------------------------------------------------------------------------------------

SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "one cycle": lambda o: S.OneCycleLR(o, max_lr=0.1, total_steps=20),
    "cyclic": lambda o: S.CyclicLR(o, 0.01, 0.1, step_size_up=3),
    "sequential": lambda o: S.SequentialLR(o, [S.LinearLR(o, 0.1, 1, 2), S.CosineAnnealingLR(o, 9)], [2]),
    "lambda": lambda o: S.LambdaLR(o, lambda t: 0.9**t),
    "restarts": lambda o: S.CosineAnnealingWarmRestarts(o, 3),
    "polynomial": lambda o: S.PolynomialLR(o, 9),
    "chained": lambda o: S.ChainedScheduler([S.ConstantLR(o, 0.5, 2), S.ExponentialLR(o, 0.9)], o),
    "plateau": lambda o: S.ReduceLROnPlateau(o, patience=0, threshold=1.0),
    "swa": lambda o: SWALR(o, swa_lr=0.01, anneal_epochs=4),
}


@pytest.mark.parametrize("name", list(SCHEDULERS))
@pytest.mark.parametrize("base", [sgd, adam])
def test_schedulers_work_on_the_wrapper_as_on_the_base(name: str, base: Any):
    """Momentum (or beta1) that OneCycleLR and CyclicLR cycle, too."""
    ends, settings = [], []
    for on in ("base", "wrapper"):
        model = smooth()
        optimizer = SAM(base(model), rho=0.2)
        scheduler = SCHEDULERS[name](optimizer.base if on == "base" else optimizer)
        seen = []
        for _ in range(6):
            seen.append(
                {k: v for k, v in optimizer.base.param_groups[0].items() if k not in ("params", "param_names")}
            )
            loss = optimizer.step(closure_of(model))
            scheduler.step(*([loss] if name == "plateau" else []))
        assert len({s["lr"] for s in seen}) > 1
        settings.append(seen)
        ends.append(model.state_dict())
    assert settings[0] == settings[1]
    assert_same_bits(*ends)


@pytest.mark.parametrize("method", list(METHODS))
def test_every_method_under_one_cycle(method: str):
    model = smooth()
    optimizer = METHODS[method](sgd(model), rho=0.2)
    scheduler = S.OneCycleLR(optimizer, max_lr=0.1, total_steps=5)
    rates = []
    for _ in range(4):
        rates.append((optimizer.base.param_groups[0]["lr"], optimizer.base.param_groups[0]["momentum"]))
        go(optimizer, model, 1)
        scheduler.step()
    assert len(set(rates)) == 4
    averaged = AveragedModel(model)
    averaged.update_parameters(model)
    assert close(averaged.module, model) == 0


def test_the_wrapper_knows_the_defaults_and_the_state_of_its_base():
    model = smooth()
    optimizer = SAM(adam(model), rho=0.2)
    assert optimizer.defaults == {**optimizer.base.defaults, "rho": 0.2}
    go(optimizer, model, 1)
    assert set(optimizer.state[model[0].weight]) == {"step", "exp_avg", "exp_avg_sq"}
    assert "rho: 0.2" in repr(optimizer)


# -- state -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("base", [sgd, adam])
def test_the_state_of_a_plain_optimizer_can_be_loaded(method: str, base: Any):
    """Training starts with torch alone and goes on with the method, as if the base had never been another."""
    ends = []
    for reloaded in (False, True):
        model = smooth()
        plain = base(model)
        for _ in range(3):
            plain.zero_grad()
            closure_of(model)().mean.backward()
            plain.step()
        if reloaded:
            fresh = base(model)
            fresh.param_groups[0]["lr"] = 99.0
            optimizer = METHODS[method](fresh, rho=0.3)
            optimizer.load_state_dict(plain.state_dict())
        else:
            optimizer = METHODS[method](plain, rho=0.3)
        plain.zero_grad()
        ends.append(go(optimizer, model))
    assert_same_bits(*ends)


def test_a_plain_state_with_decay_in_the_passes():
    model = smooth()
    plain = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.3)
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=9.0), rho=0.2, weight_decay_in_perturbation=True)
    optimizer.load_state_dict(plain.state_dict())
    group = optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"], group["perturbed_weight_decay"], group["rho"]) == (0.1, 0, 0.3, 0.2)


@pytest.mark.parametrize("method", list(METHODS))
def test_a_state_that_the_base_loads_itself_leaves_the_settings(method: str):
    a, b = smooth(), smooth()
    one, other = (METHODS[method](sgd(m), rho=0.3) for m in (a, b))
    one.base.load_state_dict(sgd(a).state_dict())
    assert_same_bits(go(one, a), go(other, b))


def test_the_state_of_another_method_is_refused():
    model = smooth()
    states = {m: METHODS[m](sgd(model)).state_dict() for m in ("erm", "sam", "gsam", "fsam", "looksam")}
    for method, kind in (("gsam", SAGM), ("fsam", LookSAM), ("looksam", FSAM), ("sam", ERM)):
        with pytest.raises(UsageError, match=rf"is the state of \w+ and not of {kind.__name__}"):
            kind(sgd(model)).load_state_dict(states[method])
        kind(sgd(model)).load_state_dict(states[method]["base"])
    LookSAM(sgd(model)).load_state_dict(states["erm"])  # plain training, continued by a method
    with pytest.raises(UsageError, match="not the state of an optimizer"):
        SAM(sgd(model)).load_state_dict(model.state_dict())


@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
def test_a_copy_is_an_optimizer_of_its_own(method: str, how: str):
    """Together with its model and a scheduler; going on with either gives the same, and leaves the other alone."""
    model = smooth()
    optimizer = METHODS[method](sgd(model), rho=0.3)
    scheduler = S.StepLR(optimizer, 1, 0.9)
    go(optimizer, model)
    scheduler.step()
    if how == "deepcopy":
        twin, copied = copy.deepcopy((model, optimizer))
    elif how == "pickle":
        twin, copied = pickle.loads(pickle.dumps((model, optimizer)))
    else:
        buffer = io.BytesIO()
        torch.save((model, optimizer), buffer)
        buffer.seek(0)
        twin, copied = torch.load(buffer, weights_only=False)
    assert copied.param_groups is copied.base.param_groups
    assert copied.parameters()[0] is twin[0].weight
    before = {k: v.clone() for k, v in model.state_dict().items()}
    ended = go(copied, twin)
    assert_same_bits(model.state_dict(), before)
    assert_same_bits(go(optimizer, model), ended)
    assert close(model, smooth()) > 1e-3


# -- bases -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize(
    ("base", "message"),
    [
        (lambda p: torch.optim.LBFGS([q for _, q in p]), "LBFGS calls the closure itself.*use SGD or Adam"),
        (lambda p: SAM(torch.optim.SGD(p, lr=0.1), rho=0.3), "SAM is no base optimizer but a method.*wrap SAM.base"),
        (lambda p: p, "is a list and no optimizer.*build it first"),
        (lambda p: torch.optim.SGD(p, lr=0.1, differentiable=True), "differentiable step"),
    ],
    ids=["lbfgs", "a method", "parameters", "differentiable"],
)
def test_bases_that_cannot_make_the_step_are_refused(method: str, base: Any, message: str):
    with pytest.raises(UsageError, match=message):
        METHODS[method](base(list(smooth().named_parameters())), rho=0.3)


@pytest.mark.parametrize("method", list(METHODS))
def test_a_base_that_maximizes(method: str):
    """Flat maxima would need the other climb; one plain pass is what the base makes of it."""
    base = torch.optim.SGD(smooth().named_parameters(), lr=0.1, maximize=True)
    if method != "erm":
        with pytest.raises(UsageError, match="minimize the negated loss"):
            METHODS[method](base, rho=0.3)
        return
    a, b = smooth(), smooth()
    up = torch.optim.SGD(a.parameters(), lr=0.1, maximize=True)
    closure_of(a)().mean.backward()
    up.step()
    ERM(torch.optim.SGD(b.parameters(), lr=0.1, maximize=True)).step(closure_of(b))
    assert_same_bits(a.state_dict(), b.state_dict())
    with pytest.raises(UsageError, match="minimize the negated loss"):
        ERM(base, {"weight_decay_in_perturbation": True})


@pytest.mark.parametrize(
    ("wrap", "base", "setting"),
    [
        (SAM, torch.optim.Adadelta, "rho"),
        (GSAM, torch.optim.RMSprop, "alpha"),
        (SAGM, torch.optim.RMSprop, "alpha"),
        (LookSAM, torch.optim.ASGD, "alpha"),
        (EntropySGD, torch.optim.RMSprop, "alpha"),
    ],
)
def test_two_settings_of_one_name_are_refused(wrap: Any, base: Any, setting: str):
    """RMSprop's alpha is 0.99 and would be taken for the weight of GSAM's gap; Adadelta's rho for a radius."""
    with pytest.raises(UsageError, match=f"both .* have a setting called {setting}"):
        wrap(base(smooth().named_parameters()))


def test_a_setting_of_an_earlier_wrapper_is_not_taken_for_the_users():
    base = sgd(smooth())
    SAM(base, rho=0.3)
    with pytest.raises(UsageError, match=r"wrapped before, with rho=0.3"):
        SAM(base, rho=0.05)
    assert SAM(base, rho=0.3).param_groups[0]["rho"] == 0.3
    own = torch.optim.SGD([{"params": list(smooth().parameters()), "rho": 0.7}], lr=0.1)
    assert SAM(own, rho=0.05).param_groups[0]["rho"] == 0.7


@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize(
    "base",
    [
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, foreach=True),
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, fused=True),
        lambda p: torch.optim.Adam(p, lr=0.01, fused=True),
        lambda p: torch.optim.AdamW(p, lr=torch.tensor(0.01), foreach=False),
    ],
    ids=["foreach", "fused", "fused adam", "rate as a tensor"],
)
def test_implementations_of_a_base_are_one_optimizer(method: str, base: Any):
    a, b = smooth(), smooth()
    made = base(list(a.named_parameters()))
    plain = {"foreach": False, "fused": None, "lr": float(made.defaults["lr"])}
    keep = {k: v for k, v in made.defaults.items() if k in ("momentum", "betas", "eps", "weight_decay")}
    twin = type(made)(b.named_parameters(), **{**keep, **plain})
    go(METHODS[method](made, rho=0.3), a)
    go(METHODS[method](twin, rho=0.3), b)
    assert close(a, b) < 1e-7  # a fused kernel may hold the rate as float32
    assert close(a, smooth()) > 1e-3


# -- settings that would be taken for others -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda b: SAM(b, p=2), r"p is 2 \(p\): give '1' or '2' or 'inf'"),
        (lambda b: SAM(b, p="3"), "p is '3'"),
        (lambda b: SAM(b, order=3), "order is 3"),
        (lambda b: SAM(b, ascent_steps=0), "ascent_steps is 0"),
        (lambda b: SAM(b, rho=-0.1), "rho is -0.1"),
        (lambda b: SAM(b, rho=math.nan), "rho is nan"),
        (lambda b: LookSAM(b, sam_every=0), "sam_every is 0"),
        (lambda b: EntropySGD(b, langevin_steps=0), "langevin_steps is 0"),
        (lambda b: WSAM(b, gamma=1.0), "gamma is 1.0"),
        (lambda b: METHODS["disam"](b, variance="samples"), "variance is 'samples'"),
        (lambda b: SAM(b, bn_second_pass="frozen"), "bn_second_pass is 'frozen'"),
        (lambda b: SAM(b, perturbation="per_replica"), "perturbation is 'per_replica'"),
        (lambda b: SAM(b, weight_decay_in_perturbation=True), "Nothing has no weight decay"),
        (lambda b: VREx(b, lam=math.inf), "lam is inf"),
    ],
)
def test_a_setting_that_means_nothing_is_refused(make: Any, message: str):
    with pytest.raises(UsageError, match=message):
        make(Nothing(smooth().named_parameters()))


def test_p_equal_one_passes_over_parameters_without_entries():
    empty, w = nn.Parameter(torch.empty(0, 3)), nn.Parameter(torch.ones(2))
    optimizer = SAM(torch.optim.SGD([empty, w], lr=0.1), rho=0.5, p="1")
    optimizer.step(lambda: BatchLoss((w * torch.tensor([1.0, 3.0])).square().sum() + empty.sum()))
    assert w.tolist() == pytest.approx([1 - 0.1 * 2, 1 - 0.1 * 2 * 9 * 1.5])
