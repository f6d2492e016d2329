"""`landscape.record` in loops of one's own: the folder it writes, and that the training is as without it."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

import landscape
from landscape.base.errors import UsageError
from landscape.training.probes import PROBES

PROBED = tuple(f"{name}@every=2" for name in PROBES)


def network(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3)
    ).to(dtype)


def examples(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(7)
    x = torch.randn(24, 4, generator=g, dtype=torch.float64).to(dtype)
    return x, torch.arange(24) % 3, torch.arange(24) % 2


def traces(model: nn.Module, optimizer: Any) -> dict[str, Any]:
    """Everything that a recorder might disturb, as comparable bytes."""

    def plain(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.dtype, value.tolist()
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value

    legacy: Any = np.random.get_state()  # noqa: NPY002
    return {
        "state": plain(dict(model.state_dict())),
        "grad": [plain(p.grad) for p in model.parameters()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "modes": [m.training for m in model.modules()],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()],
        "attributes": [sorted(vars(m)) for m in model.modules()],
        "optimizer": plain(optimizer.state_dict()),
        "torch": torch.get_rng_state().tolist(),
        "numpy": (legacy[1].tolist(), legacy[2]),
        "python": random.getstate(),
    }


def trained(recorder: Any, model: nn.Module, optimizer: Any, steps: int = 6, dtype: Any = torch.float32) -> Any:
    """A loop that draws from every generator, with a frozen bias, ended after ``steps``."""
    x, y, domain = examples(dtype)
    model[0].bias.requires_grad_(False)
    model.train()
    model[1].eval()
    model[1].train()
    for step in range(recorder.steps if recorder else 0, steps):
        random.random(), np.random.rand()  # noqa: NPY002
        rows = torch.randperm(24)[:16]
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
        if recorder:
            recorder.step(loss, batch=(x[rows], y[rows], domain[rows]))
            assert recorder.steps == step + 1
    return traces(model, optimizer)


def begun(dtype: torch.dtype = torch.float32, **options: Any) -> tuple[nn.Module, Any]:
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    model = network(dtype)
    return model, torch.optim.AdamW(model.parameters(), lr=0.01, **options)


def rows(run: landscape.Run) -> list[dict[str, Any]]:
    return run.metrics()


@pytest.mark.parametrize("given", [True, False])
def test_the_training_is_as_without_it(tmp_path: Path, given: bool):
    expected = trained(None, *begun())
    model, optimizer = begun()
    batch = examples() if given else None
    with landscape.record(
        model, optimizer, tmp_path / "run", batch=batch, loss=F.cross_entropy, probe=PROBED, every=2
    ) as recorder:
        found = trained(recorder, model, optimizer)
    assert found == expected
    run = recorder.run
    assert list(run.checkpoints()) == [0, 2, 4, 6]
    last = load_file(run.checkpoint())
    assert all(torch.equal(last[k], v) for k, v in model.state_dict().items())
    taken = [r["step"] for r in rows(run) if r.get("probes")]
    assert taken == ([1, 3, 5] if given else [2, 3, 5])
    probes = next(r["probes"] for r in rows(run) if r.get("probes"))
    assert set(probes) == set(PROBES)
    assert set(probes["domain-weights"]) == {"0", "1"}
    record = run.record
    assert (record["status"], record["steps"]) == ("finished", 6)
    assert record["spec"]["optimizer"] == ["adamw"]
    assert record["spec"]["lr"] == 0.01
    assert record["spec"]["seed"] == [3]
    assert record["spec"]["loss"] == "cross_entropy"


def test_a_probe_has_the_value_at_the_weights_before_its_step(tmp_path: Path):
    x, y, _ = examples(torch.float64)
    model = nn.Linear(4, 3).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    options: dict[str, Any] = {"batch": (x, y), "loss": nn.CrossEntropyLoss()}
    expected = []
    with landscape.record(
        model, optimizer, tmp_path, probe=("eigenvalues@every=1", "surrogate-gap@every=1"), **options
    ) as recorder:
        for _ in range(3):
            problem = landscape.Problem(model, (x, y), "cross_entropy")
            g = problem.gradient()
            expected.append((landscape.hessian(problem, top=1)["eigenvalues"][0], float(g.norm())))
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            recorder.step(loss)
    found = [
        (r["probes"]["eigenvalues"]["lambda_1"], r["probes"]["surrogate-gap"]["gradient_norm"])
        for r in rows(recorder.run)
    ]
    assert np.allclose(found, expected, rtol=1e-5)
    assert recorder.run.spec["loss"] == "cross_entropy"


def test_rows_go_to_the_callers_log_too(tmp_path: Path):
    seen: list[dict[str, Any]] = []
    model, optimizer = begun()
    with landscape.record(model, optimizer, tmp_path, log=seen.append, steps_per_epoch=3) as recorder:
        for _ in range(3):
            recorder.step(torch.tensor(2.0), domains={"art": torch.tensor(1.0), "photo": float("nan")})
        recorder.evaluation(test_loss=0.5, test_accuracy=torch.tensor(0.75))
    assert seen == rows(recorder.run)
    assert seen[0]["domains"] == {"art": 1.0, "photo": None}
    assert [r["epoch"] for r in seen] == [0.333333, 0.666667, 1.0, 1.0]
    assert recorder.epochs == 1
    assert recorder.run.record["final"] == {"test_loss": 0.5, "test_accuracy": 0.75}
    with pytest.raises(UsageError, match="not open"):
        recorder.step()


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_an_exception_leaves_the_last_state_and_the_same_call_goes_on(tmp_path: Path, error: type[BaseException]):
    expected = trained(None, *begun(), steps=7)

    def call(stop: int) -> Any:
        model, optimizer = begun()
        with landscape.record(model, optimizer, tmp_path, every=2, probe=PROBED, loss="cross_entropy") as recorder:
            assert trained(recorder, model, optimizer, stop)
            if stop < 7:
                with torch.no_grad():
                    model[0].weight.add_(1)  # a step that is half made
                raise error
            return recorder.run, traces(model, optimizer)

    with pytest.raises(error):
        call(5)
    run = landscape.Run(tmp_path)
    assert (run.record["status"], run.record["stopped_by"], run.record["steps"]) == ("interrupted", error.__name__, 5)
    assert list(run.checkpoints()) == [0, 2, 4]
    fingerprint = run.record["ingredients"]["data_hash"]
    run, found = call(7)
    assert found == expected
    assert [r["step"] for r in rows(run)] == [1, 2, 3, 4, 5, 6, 7]
    assert list(run.checkpoints()) == [0, 2, 4, 6, 7]
    assert (run.record["status"], run.record["ingredients"]["data_hash"]) == ("finished", fingerprint)
    before = (tmp_path / "run.json").read_bytes()
    assert call(7)[1]["state"] == expected["state"]  # nothing is left to do
    assert (tmp_path / "run.json").read_bytes() == before


def test_what_a_loop_has_restored_itself_is_cut_off_there(tmp_path: Path):
    model, optimizer = begun()
    with pytest.raises(RuntimeError), landscape.record(model, optimizer, tmp_path, every=1, start=0) as recorder:  # noqa: PT012
        trained(recorder, model, optimizer, 5)
        raise RuntimeError
    assert not recorder.run.state_path.exists()
    with landscape.record(model, optimizer, tmp_path, every=1, start=3) as recorder:
        assert [r["step"] for r in rows(recorder.run)] == [1, 2, 3]
        assert list(recorder.run.checkpoints()) == [0, 1, 2, 3]
        trained(recorder, model, optimizer, 4)
    with (
        pytest.raises(UsageError, match="a finished run of 4 steps, and the loop begins after 2"),
        landscape.record(model, optimizer, tmp_path, start=2),
    ):
        pass


def test_states_are_those_of_ends_of_epochs(tmp_path: Path):
    def call(stop: int) -> int:
        model, optimizer = begun()
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        with landscape.record(
            model, optimizer, tmp_path, every="1epochs", steps_per_epoch=2, restore=[schedule]
        ) as recorder:
            first = recorder.epochs
            for _ in range(first, 3):
                for _ in range(2):
                    if recorder.steps == stop:
                        raise ZeroDivisionError
                    optimizer.step()
                    recorder.step()
                schedule.step()
        return first

    with pytest.raises(ZeroDivisionError):
        call(3)
    assert call(99) == 1
    run = landscape.Run(tmp_path)
    assert list(run.checkpoints()) == [0, 2, 4, 6]
    assert [r["lr"] for r in rows(run)] == [0.01, 0.01, 0.005, 0.005, 0.0025, 0.0025]


def wrong(tmp_path: Path, what: str) -> None:
    model, optimizer = begun()
    x, y, _ = examples()
    options: dict[str, dict[str, Any]] = {
        "pass loss=": {"probe": "eigenvalues"},
        "is no batch of examples": {"probe": "eigenvalues", "loss": "mse", "batch": [x]},
        "'16', '24'": {"batch": (x, y[:16])},
        "is metadata, and no domain for each": {"batch": (x, y, torch.zeros(len(y), 2))},
        r"metadata.*\(x, y, metadata\[:, 0\]\)": {"batch": (x, y, {"hospital": y})},
        "pass steps_per_epoch": {"every": "1epochs"},
        r"no interval \(every\)": {"every": "often"},
        "unknown probe": {"probe": "trace"},
        "no such file": {"model_name": "nowhere.py:network"},
        "integer targets beside|shape|label": {
            "batch": (x, y + 7),
            "loss": "cross_entropy",
            "probe": "surrogate-gap",
        },
    }
    with landscape.record(model, optimizer, tmp_path / "run", **options[what]):
        pass


@pytest.mark.parametrize(
    "what",
    [
        "pass loss=",
        "is no batch of examples",
        "'16', '24'",
        "is metadata, and no domain for each",
        r"metadata.*\(x, y, metadata\[:, 0\]\)",
        "pass steps_per_epoch",
        r"no interval \(every\)",
        "unknown probe",
        "no such file",
        "integer targets beside|shape|label",
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(tmp_path: Path, what: str):
    with pytest.raises(landscape.LandscapeError, match=what):
        wrong(tmp_path, what)
    assert not (tmp_path / "run" / "run.json").exists()


def test_folders_of_others_are_left_alone(tmp_path: Path):
    model, optimizer = begun()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    [ours] = landscape.train(tmp_path, data="gaussian-domains", model="mlp", steps=2)
    with landscape.record(model, optimizer, tmp_path / "mine"):
        pass
    small = nn.Linear(2, 2)
    other = torch.optim.SGD(small.parameters(), lr=0.1)
    for folder, what in (
        ("other", "other files"),
        (ours.path, "run of landscape train"),
        ("mine", "another network"),
    ):
        with pytest.raises(UsageError, match=what), landscape.record(small, other, tmp_path / folder):
            pass
    with landscape.record(small, other, tmp_path / "mine", force=True) as recorder:
        assert recorder.run.spec["optimizer"] == ["sgd"]
        with pytest.raises(UsageError, match="in use"), landscape.record(small, other, tmp_path / "mine"):
            pass


def test_two_recorders_in_one_process(tmp_path: Path):
    (a, first), (b, second) = begun(), begun()
    with landscape.record(a, first, tmp_path / "a") as one, landscape.record(b, second, tmp_path / "b") as two:
        one.step()
        two.step()
        two.step()
    assert (len(rows(one.run)), len(rows(two.run))) == (1, 2)


class Both(nn.Module):
    """Gives a dictionary, with two names for one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()
        self.again = self.net[4]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.net(x), "more": x}


def half(model: nn.Module) -> nn.Module:
    return model.bfloat16()


@pytest.mark.parametrize(
    "wrap",
    [
        network,
        Both,
        lambda: nn.DataParallel(network()),
        lambda: torch.compile(network(), backend="eager"),
        lambda: half(network()),
        lambda: network(torch.float64),
    ],
    ids=["plain", "dictionary", "DataParallel", "compiled", "bfloat16", "float64"],
)
@pytest.mark.parametrize("method", ["sgd", "sam"])
@pytest.mark.filterwarnings("ignore")
def test_kinds_of_networks(tmp_path: Path, wrap: Callable[[], nn.Module], method: str):
    def run(recorded: bool) -> Any:
        model = wrap()
        x, y, _ = examples(next(model.parameters()).dtype)
        base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        optimizer: Any = landscape.SAM(base, rho=0.1) if method == "sam" else base

        def closure() -> Tensor:
            optimizer.zero_grad()
            output = model(x)
            loss = F.cross_entropy(output["logits"] if isinstance(output, dict) else output, y)
            loss.backward()
            return loss

        if not recorded:
            for _ in range(3):
                optimizer.step(closure)
            return traces(model, optimizer), None
        with landscape.record(
            model, optimizer, tmp_path / "run", batch=(x, y), loss="cross_entropy", probe=PROBED
        ) as recorder:
            for _ in range(3):
                recorder.step(optimizer.step(closure))
        return traces(model, optimizer), recorder

    expected, (found, recorder) = run(False)[0], run(True)
    assert found == expected
    record = recorder.run.record
    assert (record["spec"]["optimizer"], record["spec"].get("rho")) == ([method], 0.1 if method == "sam" else None)
    assert record["recorder"]["optimizer"]["groups"][0]["momentum"] == 0.9
    assert len([r for r in rows(recorder.run) if r.get("probes")]) == 2


def test_mixed_precision_and_accumulation(tmp_path: Path):
    def run(recorded: bool) -> Any:
        model, optimizer = begun()
        scaler = torch.amp.GradScaler("cpu")
        x, y, _ = examples()
        with (
            landscape.record(
                model,
                optimizer,
                tmp_path / str(recorded),
                batch=(x, y),
                loss="cross_entropy",
                restore=[scaler],
                probe=PROBED if recorded else (),
            ) as recorder,
            torch.autocast("cpu", torch.bfloat16),
        ):
            for step in range(8):
                loss = F.cross_entropy(model(x), y) / 2
                scaler.scale(loss).backward()
                if step % 2:
                    scaler.step(optimizer)
                    scaler.update()
                    optimizer.zero_grad()
                    if recorded:
                        recorder.step(loss)
            assert torch.is_autocast_enabled("cpu")
        return traces(model, optimizer)

    assert run(True) == run(False)


def test_commands_take_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def network(): return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))\n"
        "def data():\n"
        "    x = torch.arange(96.).sin().reshape(24, 4)\n"
        "    half = lambda k: (x[k::2], torch.arange(12) % 3)\n"
        "    return {'train': {'art': half(0), 'photo': half(1)}}\n"
    )
    mine = str(tmp_path / "mine.py")
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.arange(96.0).sin().reshape(24, 4)
    y = torch.arange(12).repeat_interleave(2) % 3

    def train(folder: Path, **options: Any) -> landscape.Run:
        with landscape.record(model, optimizer, folder, every=2, **options) as recorder:
            for _ in range(6):
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                optimizer.step()
                recorder.step(loss)
            recorder.evaluation(test_loss=1.0, test_accuracy=0.5)
        return recorder.run

    told = train(
        tmp_path / "told",
        model_name=f"{mine}:network",
        data=f"{mine}:data",
        loss=F.cross_entropy,
        batch=(x, y),
        probe="gradient-alignment@every=2",
    )
    problem = landscape.open(told)
    assert float(problem.loss()) == pytest.approx(float(F.cross_entropy(model(x), y).detach()), rel=1e-5)
    assert landscape.analyze("hessian", str(told.path), spec=landscape.HessianSpec(top=1))["eigenvalues"]
    assert landscape.analyze("domains", f"{told.path}@step=2").record["run"]["step"] == 2
    history = landscape.training_result(told)
    assert history.data["gradient_alignment_cosine"].shape == (3,)
    assert landscape.render("training", [history], tmp_path / "figures", formats=("png",))
    bare = train(tmp_path / "bare")
    with pytest.raises(UsageError, match=r"record of this loop does not say its data \(`data=`\)"):
        landscape.open(bare)
    with pytest.raises(UsageError, match=r"does not say its loss \(`loss=`\)"):
        landscape.open(bare, data=f"{mine}:data")
    with pytest.raises(UsageError, match=r"does not say its model \(`model=`\)"):
        landscape.open(bare, data=f"{mine}:data", loss="cross_entropy")
    named = {"data": f"{mine}:data", "loss": "cross_entropy", "model": f"{mine}:network"}
    assert landscape.open(bare, **named).n_examples == 24
    # A stranger's record makes no code run: exactly this file has to be named first.
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "stranger"))
    with pytest.raises(UsageError, match="`trust=True`"):
        landscape.open(told)


@pytest.mark.parametrize("kept", [True, False])
def test_other_weights_after_the_last_step_are_not_its_checkpoint(
    tmp_path: Path, kept: bool, caplog: pytest.LogCaptureFixture
):
    """Libraries put an average or the best weights in before they say that they have ended."""
    from landscape.integrations.recorder import Recorder
    from landscape.weights.checkpoint import read_weights
    from landscape.weights.weights import tensors_hash, weights_hash

    model, optimizer = begun()
    with Recorder(model, optimizer, tmp_path, loop="somebody's", start=0) as recorder:
        trained(recorder, model, optimizer, steps=3)
        weights = {k: v.clone() for k, v in model.state_dict().items()}
        if kept:
            recorder.keep_last()
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(0.5)
    path = recorder.run.checkpoint_path(3)
    assert path.exists() == kept
    if kept:
        assert all(torch.equal(weights[k], v) for k, v in load_file(path).items())
        found = recorder.run.record["weights_hash"]
        assert found == tensors_hash(read_weights(path).tensors) != weights_hash(model)
        model.load_state_dict(weights)
        assert found == weights_hash(model)
    else:
        assert recorder.run.record["weights_hash"] is None
        assert "other weights came after step 3" in caplog.text


def test_parameters_beside_the_network_go_on_too(tmp_path: Path):
    """A temperature of the loss, say: it began anew after a kill, without a word."""

    def go(folder: Path, die: int | None = None) -> list[Tensor]:
        torch.manual_seed(0)
        model, temperature = network().eval(), nn.Parameter(torch.tensor(1.0))
        optimizer = landscape.SAM(torch.optim.SGD([*model.parameters(), temperature], lr=0.3, momentum=0.9))
        x, y, _ = examples()
        with landscape.record(model, optimizer, folder, every=2) as recorder:
            for _ in recorder.until(steps=6):
                recorder.step(
                    optimizer.step(lambda: landscape.BatchLoss(F.cross_entropy(model(x) * temperature.exp(), y)))
                )
                if recorder.steps == die:
                    raise RuntimeError
        return [*model.parameters(), temperature]

    whole = go(tmp_path / "whole")
    with pytest.raises(RuntimeError):
        go(tmp_path / "killed", die=3)
    assert all(map(torch.equal, whole, go(tmp_path / "killed")))


@pytest.mark.parametrize(("restore", "said"), [([3], "int has no state"), (torch.Generator(), "give a list")])
def test_what_cannot_be_restored_is_refused(tmp_path: Path, restore: Any, said: str):
    model, optimizer = begun()
    with pytest.raises(UsageError, match=said):
        landscape.record(model, optimizer, tmp_path, restore=restore)
