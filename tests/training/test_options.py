"""Options of the trainer: what they change, what they record, what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import landscape
from landscape.base.errors import UsageError
from landscape.data.changes import changed
from landscape.data.splits import Splits
from landscape.training.loop import Training


def weights(run: landscape.Run) -> dict[str, torch.Tensor]:
    return load_file(run.checkpoint())


def same(a: landscape.Run, b: landscape.Run) -> bool:
    p, q = weights(a), weights(b)
    return all(torch.equal(p[k], q[k]) for k in p)


# -- resuming, whatever is switched on ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": ("fsam",), "average": "swad", "save_every": "2steps"},
        {"optimizer": ("looksam",), "average": "swa", "sam_every": 3},
        {"optimizer": ("disam-gsam",), "sampler": "balanced", "rho_min": 0.01, "schedule": "cosine"},
        {"optimizer": ("entropy-sgd",), "langevin_steps": 2, "label_noise": "0.3"},
        {"optimizer": ("sagm",), "amp": "float16", "accumulate": 2},
        {"optimizer": ("sam",), "m": 8, "augment": ("mixup",), "probe": ("surrogate-gap@every=2",)},
    ],
    ids=lambda o: o["optimizer"][0],
)
def test_an_interrupted_training_ends_in_the_same_weights(train, options: dict[str, Any], monkeypatch):
    (whole,) = train("whole", steps=8, **options)
    step = Training._one_step

    def stopping(self: Training, batch: Any) -> dict[str, Any]:
        if self.step == 4:
            self.stop.signal = "SIGTERM"
        return step(self, batch)

    monkeypatch.setattr(Training, "_one_step", stopping)
    with pytest.raises(landscape.Interrupted):
        train("stopped", steps=8, **options)
    monkeypatch.undo()
    (resumed,) = train("stopped", steps=8, resume=True, **options)
    assert same(whole, resumed)

    def lines(run: landscape.Run) -> list[Any]:
        return [{k: v for k, v in line.items() if k != "seconds"} for line in run.metrics()]

    assert lines(whole) == lines(resumed)


# -- domains ---------------------------------------------------------------------------------------------------------


def test_balanced_batches_hold_the_same_number_of_every_domain(train):
    (run,) = train(optimizer=("disam",), sampler="balanced", batch_size=12, steps=5)
    from landscape.training.batches import BalancedOrder

    domain = np.repeat([0, 1, 2], [48, 36, 24])
    order = BalancedOrder(domain, 12, seed=0)
    seen = [order.positions(step) for step in range(40)]
    assert all(np.bincount(domain[s]).tolist() == [4, 4, 4] for s in seen)
    for i, n in enumerate((48, 36, 24)):  # without replacement within a lap
        stream = np.concatenate([s[domain[s] == i] for s in seen])
        assert sorted(stream[:n].tolist()) == np.flatnonzero(domain == i).tolist()
        assert stream[:n].tolist() != stream[n : 2 * n].tolist()
    uneven = BalancedOrder(domain, 10, seed=0)
    counts = sum(np.bincount(domain[uneven.positions(s)], minlength=3) for s in range(30))
    assert counts.tolist() == [100, 100, 100]
    assert all(len(uneven.positions(s)) == 10 for s in range(30))
    assert run.record["status"] == "finished"


def test_domain_ratio_keeps_the_largest_sizes_that_fit(train):
    (run,) = train(domain_ratio="8:1:1")
    assert run.record["changes"]["domain_sizes"] == {"a": 48, "b": 6, "c": 6}
    recorded = json.loads((run.path / "changes.json").read_text())
    assert recorded["domain_sizes"] == {"a": 48, "b": 6, "c": 6}
    with pytest.raises(UsageError, match="2 parts for 3 training domains"):
        train("other", domain_ratio="1:1")
    (held,) = train("held", domain_ratio="1:1", holdout=("a",))
    assert held.record["changes"]["domain_sizes"]["b"] == held.record["changes"]["domain_sizes"]["c"] == 24


def test_label_shift_draws_class_proportions_of_a_dirichlet_distribution():
    classes, domains, each, concentration = 4, 200, 60, 0.8
    x, y = torch.zeros(classes * each, 1), torch.arange(classes).repeat_interleave(each)
    splits = Splits({"train": {f"d{i}": (x, y) for i in range(domains)}})
    made = changed(splits, {"label_shift": concentration}, ["d0"], 0)
    train = made.splits["train"]
    labels = train.classes()
    assert labels is not None
    counts = np.stack([np.bincount(labels[train.domain == i], minlength=classes) for i in range(domains)])
    assert counts[0].tolist() == [each] * classes  # held out: as it was
    assert (counts[1:].max(1) == each).all()  # the largest subset: one class is kept whole
    assert made.record["class_counts"]["d7"] == {str(c): int(n) for c, n in enumerate(counts[7])}
    shares = counts[1:] / counts[1:].sum(1, keepdims=True)
    variance = 1 / classes * (1 - 1 / classes) / (classes * concentration + 1)
    error = np.sqrt(variance / (domains - 1))
    assert np.abs(shares.mean(0) - 1 / classes).max() < 4 * error
    assert shares.var(0).mean() == pytest.approx(variance, rel=0.2)
    again, other = (changed(splits, {"label_shift": concentration}, ["d0"], seed).splits["train"] for seed in (0, 1))
    assert again.rows.tolist() == train.rows.tolist() != other.rows.tolist()


def test_label_shift_is_recorded_and_found_again(train):
    (run,) = train(label_shift=0.5, domain_ratio="1:1:1")
    sizes = run.record["changes"]["domain_sizes"]
    assert len(set(sizes.values())) == 1
    recorded = json.loads((run.path / "changes.json").read_text())
    assert {k: sum(v.values()) for k, v in recorded["class_counts"].items()} == sizes
    assert landscape.open(run).evaluate().loss == pytest.approx(run.record["final"]["train_loss"], rel=1e-5)
    with pytest.raises(UsageError, match="expected a number > 0"):
        train("other", label_shift=0.0)


def test_wrong_and_missing_domain_labels(train):
    (run,) = train(optimizer=("disam",), domain_label_noise=("0.25", "missing:0.5"))
    recorded = json.loads((run.path / "changes.json").read_text())
    wrong, missing = recorded["wrong_domains"], recorded["missing_domains"]
    assert len(wrong["positions"]) == 27
    assert len(missing["positions"]) == 54
    assert all(t != g for t, g in zip(wrong["true"], wrong["given"], strict=True))
    assert set(missing["given"]) == {"unknown"}
    assert "train_clean_loss" in run.record["final"]
    assert "unknown" in run.record["final"]["domains"]


@pytest.mark.parametrize(("noise", "share"), [("0.4", 0.4), ("pair:0.2", 0.2)])
def test_label_noise_is_recorded_and_found_again(train, noise: str, share: float):
    (run,) = train(label_noise=noise, epochs=2)
    recorded = json.loads((run.path / "changes.json").read_text())["label_noise"]
    assert len(recorded["positions"]) == round(share * 108)
    true, given = np.array(recorded["true"]), np.array(recorded["given"])
    assert (true != given).all()
    if noise.startswith("pair"):
        assert (given == (true + 1) % 3).all()
    final = run.record["final"]
    assert final["train_loss"] != final["train_clean_loss"]
    # An analysis of the run looks at the examples it was trained on, unless asked for the clean ones.
    problem = landscape.open(run)
    assert problem.evaluate().loss == pytest.approx(final["train_loss"], rel=1e-5)
    clean = landscape.open(run, split="train_clean")
    assert clean.evaluate().loss == pytest.approx(final["train_clean_loss"], rel=1e-5)


def test_a_negative_weight_in_disams_climb_is_said(train, caplog):
    (run,) = train(optimizer=("disam",), lam=40.0)
    assert "weight in DISAM's climb is negative" in caplog.text
    assert run.record["steps_with_negative_domain_weight"] >= 1
    assert any(line.get("negative_domain_weight") for line in run.metrics())


def test_methods_with_domains_refuse_data_without(train, problem_file: Path):
    for name in ("disam", "disam-sagm", "disam-gsam"):
        with pytest.raises(UsageError, match="needs domains and the data has none"):
            train(optimizer=(name,), data=f"{problem_file}:images", model=f"{problem_file}:convnet")


def test_one_domain_under_disam_is_sam(train, caplog):
    held = {"holdout": ("b", "c"), "steps": 4}
    (disam,) = train("disam", optimizer=("disam",), lam=0.7, rho=0.2, **held)
    assert "one training domain" in caplog.text
    (sam,) = train("sam", optimizer=("sam",), rho=0.2, **held)
    assert same(disam, sam)


# -- leaving domains out, choosing checkpoints ----------------------------------------------------------------------


def test_leave_one_out_and_selection(train):
    runs = train(leave_one_out=True, select="training-domain", save_every="2steps")
    assert [r.path.parent.name for r in runs] == ["unseen-a", "unseen-b", "unseen-c"]
    for run in runs:
        chosen = run.record["selected"]
        assert chosen["rule"] == "training-domain"
        assert chosen["of"] == "val accuracy, mean over the seen domains"
        scores = {}
        for line in run.metrics():
            if line["step"] in run.checkpoints():
                domains = [d for d in line["evaluation"]["domains"].values() if d["seen"]]
                scores[line["step"]] = sum(d["val_accuracy"] for d in domains) / 2
        assert chosen["score"] == max(scores.values()) == scores[chosen["step"]]
        assert run.checkpoint("selected") == run.checkpoints()[chosen["step"]]


def test_oracle_is_named(train):
    (run,) = train(holdout=("c",), select="oracle", save_every="2steps")
    found = {line["step"]: line["evaluation"]["unseen_accuracy"] for line in run.metrics() if "evaluation" in line}
    assert run.record["selected"]["score"] == max(found.values())
    assert run.record["selected"]["of"] == "unseen accuracy"


def test_leave_one_domain_out_looks_at_other_domains_only(train):
    runs = train(leave_one_out=True, select="leave-one-domain-out", save_every="2steps")
    assert len(runs) == 6
    by_name = {r.path.parent.name: r for r in runs}
    chosen = by_name["unseen-a"].record["selected"]
    means = {}
    for step in (0, 2, 4, 6):
        values = []
        for other, name in (("b", "unseen-a+b"), ("c", "unseen-a+c")):
            (line,) = [m for m in by_name[name].metrics() if m["step"] == step]
            d = line["evaluation"]["domains"][other]
            values.append((d["train_accuracy"] + d["test_accuracy"]) / 2)
        means[step] = sum(values) / 2
    assert chosen["score"] == pytest.approx(max(means.values()))
    assert means[chosen["step"]] == pytest.approx(chosen["score"])
    assert "selected" not in by_name["unseen-a+b"].record


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"select": "oracle"}, "only the last checkpoint to select"),
        ({"select": "leave-one-domain-out"}, "add `leave_one_out=True`"),
        ({"leave_one_out": True, "holdout": ("a",)}, "drop one of the flags"),
        ({"m": 4, "accumulate": 2, "optimizer": ("sam",)}, "both cut the batch"),
        ({"optimizer": ("sam",), "m": 17}, "17 is more than the 16 examples of a batch"),
        ({"optimizer": ("sam",), "order": 2, "p": "inf"}, "one plain step"),
        ({"optimizer": ("wsam",), "gamma": 1.0}, r"WSAM's gamma lies in \[0, 1\)"),
        ({"optimizer": ("sam",), "alpha": 0.1}, "used by none of the chosen optimizers"),
        ({"optimizer": ("sgd",), "adaptive": True}, "used by none of the chosen optimizers"),
        ({"label_noise": "1.5"}, "is no share"),
        ({"domain_ratio": "1:0:1"}, "is no ratio"),
        ({"domain_label_noise": ("0.1", "0.2")}, "the same kind is given twice"),
        ({"probe": ("gap",)}, "unknown probe 'gap'"),
        ({"probe": ("surrogate-gap@5",)}, "is no probe"),
        ({"augment": ("cutout",)}, "are for images"),
        ({"train_only": "("}, "is no regular expression"),
        ({"train_only": "head"}, "no parameter matches 'head'"),
        ({"clip": 0.0}, "expected a number > 0"),
        ({"equal_cost": True, "optimizer": ("sam",)}, "is an arm of sgd, adam or adamw"),
    ],
)
def test_what_cannot_be_is_refused(train, options: dict[str, Any], message: str, tmp_path: Path):
    with pytest.raises(UsageError, match=message):
        train(**options)
    assert "augment" in options or not (tmp_path / "runs" / "sgd-seed0").exists()


# -- the rest --------------------------------------------------------------------------------------------------------


def test_equal_cost_adds_an_arm_with_twice_the_epochs(train):
    runs = train(optimizer=("sgd", "sam"), epochs=2, equal_cost=True)
    assert [r.path.name for r in runs] == ["sgd-seed0", "sgd-2x-seed0", "sam-seed0"]
    spent = [r.record["gradient_evaluations"] for r in runs]
    assert spent[1] == spent[2] == 2 * spent[0]


def test_gradient_evaluations_are_counted_as_spent(train):
    expected = {"sgd": 6, "sam": 12, "looksam": 6 + 2, "entropy-sgd": 18}
    runs = train(optimizer=tuple(expected), sam_every=4, langevin_steps=3)
    assert {r.spec["optimizer"][0]: r.record["gradient_evaluations"] for r in runs} == expected


def test_stopping_at_a_training_loss(train):
    (run,) = train(epochs=60, stop_at=0.3)
    stopped = run.record["stopped"]
    assert stopped["reached"]
    assert stopped["step"] == run.record["steps"] < 60 * 7
    assert run.record["final"]["train_loss"] <= 0.3
    (never,) = train("never", steps=4, stop_at=1e-6)
    assert never.record["stopped"] == {"target": 1e-6, "reached": False, "step": 4}


def test_only_named_parameters_are_trained_and_frozen_statistics_stay(train, problem_file: Path):
    (before,) = train("before", steps=3)
    (run,) = train("head", init=str(before.checkpoint()), train_only=r"^4\.", steps=3)
    a, b = weights(before), weights(run)
    assert {k for k in a if not torch.equal(a[k], b[k])} == {"4.weight", "4.bias"}


def test_validation_examples_are_set_aside_where_a_choice_needs_them(train):
    """A fifth of each seen domain; the test split and domains held out stay whole; analyses find them again."""
    (plain,) = train("plain", holdout=("c",))
    (run,) = train("chosen", holdout=("c",), select="training-domain", save_every="2steps")
    (asked,) = train("asked", holdout=("c",), validation=0.5)
    assert plain.spec["validation"] is None
    assert (run.spec["validation"], asked.spec["validation"]) == (0.2, 0.5)
    whole = landscape.open(plain, all_domains=True).examples
    for one, share in ((run, 0.2), (asked, 0.5)):
        rest, val = (landscape.open(one, split=s, all_domains=True).examples for s in ("train", "val"))
        sizes = {n: [int((e.domain == e.domain_names.index(n)).sum()) for e in (whole, rest, val)] for n in "abc"}
        assert sizes["c"] == [sizes["c"][0], sizes["c"][0], 0]
        for name in "ab":
            everything, left, aside = sizes[name]
            assert (left + aside, aside) == (everything, round(share * everything))
        assert not set(rest.rows) & set(val.rows)
    test = [landscape.open(r, split="test").data_hash for r in (plain, run)]
    assert test[0] == test[1]
    assert run.record["selected"]["of"].startswith("val accuracy")


SINGLE = """

def single():
    x, y = data()["test"]["a"]
    return {"train": {"a": (x[:1], y[:1])}, "test": {"a": (x, y)}}
"""


def test_validation_that_cannot_be_set_aside_is_refused(train, problem_file: Path):
    """Before anything is trained; what is left is what a batch is taken of."""
    with pytest.raises(UsageError, match=r"batch_size=60 exceeds the 54 training examples"):
        train(validation=0.5, batch_size=60)
    (run,) = train("small", validation=0.5, batch_size=None)
    assert run.spec["batch_size"] == 54
    made = problem_file.with_name("with_val.py")
    made.write_text(problem_file.read_text() + "\n\ndef more():\n    return {**data(), 'val': data()['test']}\n")
    with pytest.raises(UsageError, match=r"split val of its own.*`validation=`"):
        train("own", data=f"{made}:more", validation=0.5)
    (chosen,) = train("own", data=f"{made}:more", average="swad", save_every="2steps")
    assert chosen.spec["validation"] is None
    one = problem_file.with_name("one.py")
    one.write_text(problem_file.read_text() + SINGLE)
    with pytest.raises(UsageError, match="no training domain has two examples"):
        train("single", data=f"{one}:single", validation=0.5, batch_size=None)


def test_a_study_repeats_no_training_that_chose_its_validation(tmp_path: Path, problem_file: Path):
    """What is set aside by default is part of the run's settings, and so of what a study looks for."""
    from landscape.specs import TrainSpec
    from landscape.training.setup import open_inputs
    from landscape.training.trainer import config_hash
    from landscape.training.trainer import train as train_spec

    named = {"data": f"{problem_file}:data", "model": f"{problem_file}:network"}
    spec = TrainSpec(**named, steps=4, batch_size=16, average="swad")
    [run] = train_spec(spec, tmp_path / "runs")
    assert run.record["config_hash"] == config_hash(next(spec.runs()), open_inputs(spec))


@pytest.mark.parametrize("average", ["swa", "swad"])
def test_averaged_weights_are_what_a_run_ends_with(train, average: str):
    (plain,) = train("plain", epochs=8, save_every="1epochs")
    (run,) = train("averaged", epochs=8, save_every="1epochs", average=average)
    assert run.record["average"]["kind"] == average
    assert run.metrics()[-1]["averaged"]
    assert not same(plain, run)
    assert run.record["final"]["train_loss"] == run.metrics()[-1]["evaluation"]["train_loss"]
    if average == "swa":  # the ends of the last quarter's epochs, and new statistics
        steps = [s for s in plain.checkpoints() if s >= 0.75 * max(plain.checkpoints())]
        mean = sum(load_file(plain.checkpoints()[s])["0.weight"].double() for s in steps) / len(steps)
        assert torch.allclose(weights(run)["0.weight"].double(), mean, atol=1e-6)


def test_accumulated_pieces_make_the_same_step(train):
    """In float64; batch statistics differ, so the network without them."""
    options = {"model": "mlp", "dtype": "float64", "optimizer": ("sam",), "model_arg": ("hidden=8",)}
    (a,), (b,) = train("a", **options), train("b", accumulate=3, **options)
    p, q = weights(a), weights(b)
    assert max(float((p[k] - q[k]).abs().max()) for k in p) < 1e-12


@pytest.mark.parametrize("amp", ["bfloat16", "float16"])
def test_mixed_precision_trains(train, amp: str):
    (run,) = train(optimizer=("sagm",), amp=amp, epochs=20)
    assert run.record["final"]["train_accuracy"] > 0.8
    if amp == "float16":
        assert run.record["skipped_steps"] >= 0


def test_augmentation_of_images(train, problem_file: Path):
    images = {"data": f"{problem_file}:images", "model": f"{problem_file}:convnet", "batch_size": 12}
    (plain,) = train("plain", **images)
    for names in (("flip-crop",), ("cutout",), ("mixup",), ("flip-crop", "cutout", "mixup")):
        (run,) = train("-".join(names), augment=names, **images)
        assert not same(plain, run)
