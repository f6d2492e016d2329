"""Every command on a small run: files, tables, JSON objects and their fields."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

TINY = ("--epochs", "2", "--batch-size", "128", "--model", "mlp", "--model-arg", "hidden=[8]")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from landscape.specs import TrainSpec
    from landscape.training.trainer import train

    out = tmp_path_factory.mktemp("cli")
    spec = TrainSpec(
        optimizer=("sgd", "disam"), epochs=3, batch_size=128, model="mlp", model_arg=("hidden=[8]",), holdout=("0",),
        save_every="1epochs",
    )  # fmt: skip
    train(spec, out)
    return out


def test_train_json(landscape, tmp_path: Path) -> None:
    said = landscape("train", "--optimizer", "sgd", "sam", "--seed", 0, 1, "--holdout", "0", "75", *TINY, "--json")
    assert said.code == 0, said.err
    runs = said.json["runs"]
    assert [(r["optimizer"], r["seed"]) for r in runs] == [("sgd", 0), ("sgd", 1), ("sam", 0), ("sam", 1)]
    for r in runs:
        assert Path(r["path"]) == tmp_path / "runs" / f"{r['optimizer']}-seed{r['seed']}"
        assert r["steps"] == 2 * math.ceil(960 / 128)
        assert r["gradient_evaluations"] == r["steps"] * (1 if r["optimizer"] == "sgd" else 2)
        final = r["final"]
        assert 0 < final["test_accuracy"] <= 1
        assert {n: d["seen"] for n, d in final["domains"].items()} == {
            "0": False, "15": True, "30": True, "45": True, "60": True, "75": False,
        }  # fmt: skip
        seen = [d["train_loss"] for d in final["domains"].values() if d["seen"]]
        assert final["train_loss"] == pytest.approx(np.mean(seen), rel=1e-12)  # equal counts
        assert final["domain_loss_variance"] == pytest.approx(np.var(seen), rel=1e-9)
        spec = json.loads((Path(r["path"]) / "run.json").read_text())["spec"]
        assert spec["rho"] == (0.05 if r["optimizer"] == "sam" else None)
        assert spec["lr"] == 0.05
    a, b = (json.loads((Path(r["path"]) / "run.json").read_text()) for r in runs[:2])
    assert a["weights_hash"] != b["weights_hash"]


def test_the_log_has_a_line_per_step_with_domains(runs: Path) -> None:
    lines = [json.loads(line) for line in (runs / "disam-seed0" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(31))
    for line in lines[1:]:
        assert set(line["domains"]) == {"15", "30", "45", "60", "75"}
        assert line["gradient_evaluations"] == 2 * line["step"]
    evaluations = [line["evaluation"] for line in lines if "evaluation" in line]
    assert len(evaluations) == 4  # before the first step, and after each epoch
    assert evaluations[0]["domains"]["0"]["seen"] is False


def test_hessian_json_and_cache(landscape, runs: Path) -> None:
    words = ("hessian", runs / "sgd-seed0", "--top", 2, "--bottom", 1, "--per-domain", "--examples", 200, "--json")
    said = landscape(*words)
    assert said.code == 0, said.err
    found = said.json
    for field in [
        "target",
        "operator",
        "n_examples",
        "data_hash",
        "weights_hash",
        "n_parameters",
        "loss",
        "accuracy",
        "gradient_norm",
        "symmetry_error",
        "eigenvalues",
        "residuals",
        "converged",
        "smallest",
        "smallest_residuals",
        "smallest_converged",
        "hvp_count",
        "krylov_products",
        "trace",
        "density",
        "domains",
        "layers",
        "seconds",
        "result",
    ]:
        assert field in found, field
    assert found["n_examples"] == 200
    assert found["eigenvalues"] == sorted(found["eigenvalues"], reverse=True)
    assert max(found["residuals"] + found["smallest_residuals"]) <= 1e-3
    assert all(found["converged"] + found["smallest_converged"])
    assert set(found["domains"]) == {"15", "30", "45", "60", "75"}
    assert Path(found["result"]).is_file()
    assert Path(found["result"]).with_suffix(".safetensors").is_file()
    again = landscape(*words)
    assert again.json == found
    assert "stored result" in again.err
    forced = landscape(*words, "--force").json
    assert forced["eigenvalues"] == found["eigenvalues"]


def test_a_table_is_printed_without_json(landscape, runs: Path) -> None:
    said = landscape("hessian", runs / "sgd-seed0", "--top", 1)
    assert said.code == 0
    assert "lambda_1" in said.out
    assert "converged" in said.out
    with pytest.raises(json.JSONDecodeError):
        json.loads(said.out)


def test_not_converged_shows_what_there_is_and_exits_4(landscape, runs: Path) -> None:
    words = ("hessian", runs / "sgd-seed0", "--top", 5, "--max-products", 6, "--tol", "1e-6", "--json")
    said = landscape(*words)
    assert said.code == 4
    assert "eigenpairs have a residual above 1e-06" in said.error
    assert len(said.json["eigenvalues"]) == 5
    assert not all(said.json["converged"])
    assert landscape(*words).code == 4  # the partial result is not taken for a whole one
    assert landscape(*words, "--allow-partial").code == 0


def test_several_targets_and_all_checkpoints(landscape, runs: Path) -> None:
    both = landscape("domains", runs / "sgd-seed0", runs / "disam-seed0", "--json")
    assert [r["run"]["optimizer"] for r in both.json["results"]] == ["sgd", "disam"]
    every = landscape("domains", runs / "sgd-seed0", "--checkpoints", "all", "--json").json["results"]
    assert [r["run"]["step"] for r in every] == [0, 10, 20, 30]
    step = landscape("domains", f"{runs / 'sgd-seed0'}@step=10", "--json").json
    assert step["domains"] == every[1]["domains"]
    losses = {r["run"]["step"]: r for r in every}
    best = landscape("domains", f"{runs / 'sgd-seed0'}@best", "--json").json
    assert best["run"]["step"] in losses


def test_domains_json(landscape, runs: Path) -> None:
    found = landscape("domains", runs / "sgd-seed0", "--json").json
    assert found["split"] == "train"
    assert found["domains"]["0"]["seen"] is False
    seen = [d["loss"] for d in found["domains"].values() if d["seen"]]
    assert found["loss_mean"] == pytest.approx(np.mean(seen))
    assert found["loss_variance"] == pytest.approx(np.var(seen))
    assert found["loss_range"] == pytest.approx(np.ptp(seen))
    assert found["unseen_loss_mean"] == pytest.approx(found["domains"]["0"]["loss"])
    assert np.array(found["gradient_cosine"]["matrix"]).shape == (6, 6)
    final = json.loads((runs / "sgd-seed0" / "run.json").read_text())["final"]
    for name, domain in found["domains"].items():
        assert domain["loss"] == pytest.approx(final["domains"][name]["train_loss"], rel=1e-5)


def test_sharpness_json(landscape, runs: Path) -> None:
    found = landscape(
        "sharpness", runs / "sgd-seed0", "--m", 1, 50, "--rho", 0.01, 0.1, "--examples", 120, "--json"
    ).json
    rows = [(m["m"], m["rho"], m["n_blocks"]) for m in found["measures"]]
    assert rows == [(1, 0.01, 120), (1, 0.1, 120), (50, 0.01, 3), (50, 0.1, 3)]
    assert {m["measure"] for m in found["measures"]} == {"m-sharpness"}
    assert all(m["value"] > 0 and m["stderr"] > 0 for m in found["measures"])
    too_many = landscape("sharpness", runs / "sgd-seed0", "--m", 121, "--examples", 120)
    assert too_many.code == 2
    assert "m=121 exceeds the 120 examples" in too_many.error


def test_surface_json(landscape, runs: Path) -> None:
    from safetensors.torch import load_file

    found = landscape("surface", runs / "sgd-seed0", "--points", 5, "--range", 0.5, "--json").json
    assert found["shape"] == [5, 5]
    assert found["center_loss"] == pytest.approx(found["plain_loss"], rel=1e-6)
    assert found["restored"] is True
    assert found["bn_policy"] == "keep"
    assert {"loss", "accuracy", "domain_loss"} <= set(found["metrics"])
    stored = load_file(found["directions"])
    assert set(stored) == {f"d{i}.layers.{j}.{k}" for i in (1, 2) for j in (0, 1) for k in ("weight", "bias")}
    squares = sum(float(t.double().square().sum()) for k, t in stored.items() if k.startswith("d1."))
    assert found["axes"][0]["norm"] == pytest.approx(math.sqrt(squares))
    line = landscape("surface", runs / "sgd-seed0", "--dim", 1, "--points", 5, "--range", 0.5, "--json").json
    assert line["shape"] == [5]
    assert line["cosine"] is None


def test_list_info_and_config(landscape, runs: Path, tmp_path: Path) -> None:
    names = [e["name"] for e in landscape("list", "optimizers", "--json").json["optimizers"]]
    assert names[:4] == ["sgd", "adam", "adamw", "sam"]
    assert {"asam", "gsam", "sagm", "disam", "disam-sagm", "looksam"} <= set(names)
    facts = landscape("info", runs / "sgd-seed0", "--json").json
    assert (facts["status"], facts["optimizer"], facts["steps"]) == ("finished", "sgd", 30)
    (tmp_path / "c.toml").write_text(
        'epochs = 1\nbatch-size = 256\noptimizer = ["sam"]\nrho = 0.2\nout = "elsewhere"\n'
    )
    said = landscape("train", "--config", "c.toml", "--rho", 0.3, *TINY[4:], "--json")
    assert said.code == 0, said.err
    (run,) = said.json["runs"]
    assert Path(run["path"]).parent == tmp_path / "elsewhere"
    spec = json.loads((Path(run["path"]) / "run.json").read_text())["spec"]
    assert (spec["rho"], spec["epochs"], spec["batch_size"]) == (0.3, 1, 256)


def test_full_batch_steps_float64_init(landscape, runs: Path) -> None:
    init = runs / "sgd-seed0" / "checkpoints" / "step-00000010.safetensors"
    words = ("train", "--model", "mlp", "--model-arg", "hidden=[8]", "--holdout", "0", "--batch-size", "full")
    said = landscape(*words, "--steps", 3, "--dtype", "float64", "--init", init, "--save-every", "1steps", "--json")
    assert said.code == 0, said.err
    from landscape.results.run import Run
    from landscape.weights.checkpoint import read_weights

    run = Run(said.json["runs"][0]["path"])
    assert list(run.checkpoints()) == [0, 1, 2, 3]
    start, given = read_weights(run.checkpoints()[0]).tensors, read_weights(init).tensors
    assert all(torch.equal(start[k], given[k].double()) for k in given)


BAD = [
    (("hesian",), 2, "did you mean 'hessian'"),
    (("hessian", "x", "--tpo", "3"), 2, "did you mean --top"),
    (("hessian",), 2, "no target"),
    (("hessian", "nothing.pt"), 2, "no such run or checkpoint"),
    (("hessian", "RUN", "--top", "x"), 2, "--top"),
    (("hessian", "RUN", "--top", "0"), 2, "top=0 (--top): expected a number >= 1"),
    (("hessian", "RUN", "--top", "99999"), 2, "expected fewer than"),
    (("hessian", "RUN", "--split", "tets"), 2, "did you mean 'test'"),
    (("hessian", "RUN", "--examples", "5000"), 2, "5000 examples were asked for, there are 1200"),
    (("hessian", "RUN", "--params", "nothing"), 2, "no trainable parameter is selected"),
    (("hessian", "RUN", "--params", "(("), 2, "no regular expression"),
    (("hessian", "RUN", "--domain", "16"), 2, "unknown domain '16'"),
    (("hessian", "RUN", "--device", "tpu"), 2, "unknown device"),
    (("hessian", "RUN@step=7"), 2, "there is: best, step=0, step=10"),
    (("surface", "RUN", "--points", "1"), 2, "points=1"),
    (("surface", "RUN", "--range", "0"), 2, "expected a number > 0"),
    (("surface", "RUN", "--direction", "filer"), 2, "did you mean 'filter'"),
    (("sharpness", "RUN", "--m", "0"), 2, "m=0"),
    (("train", "--optimizer", "sgdd"), 2, "did you mean 'sgd'"),
    (("train", "--optimizer", "sgd", "--rho", "0.1"), 2, "--rho is used by none of the chosen optimizers"),
    (("train", "--optimizer", "sam", "--rho", "-1"), 2, "rho=-1.0"),
    (("train", "--optimizer", "sam", "--rho", "nan"), 2, "rho=nan"),
    (("train", "--optimizer", "sagm", "--alpha", "inf"), 2, "alpha=inf"),
    (("train", "--optimizer", "adam", "--momentum", "0.9"), 2, "--momentum belongs to sgd"),
    (("train", "--epochs", "1", "--steps", "1"), 2, "contradict"),
    (("train", "--holdout", "7"), 2, "unknown domain '7'"),
    (("train", "--holdout", "0", "15", "30", "45", "60", "75"), 2, "every domain is held out"),
    (("train", "--data", "digits", "--holdout", "0"), 2, "the data has no domains"),
    (("train", "--data", "digits", "--optimizer", "disam"), 2, "DISAM needs domains"),
    (("train", "--data", "digts"), 2, "did you mean 'digits'"),
    (("train", "--model", "conv"), 2, "did you mean 'convnet'"),
    (("train", "--model", "mlp", "--model-arg", "hiden=3"), 2, "did you mean 'hidden'"),
    (("train", "--model", "nothing.py:f"), 2, "no such file"),
    (("train", "--model-arg", "3"), 2, "not of the form k=v"),
    (("train", "--batch-size", "5000"), 2, "exceeds the 1440 training examples"),
    (("train", "--save-every", "often"), 2, "no interval"),
    (("train", "--init", "nothing.pt", "--epochs", "1"), 2, "no such file"),
    (("train", "--config", "nothing.toml"), 2, "nothing.toml"),
    (("list", "optimisers"), 2, "optimizers"),
    (("plot", "nothing.nc"), 2, "no such result"),
    (("plot", "RUN", "--kind", "contuor"), 2, "did you mean 'contour'"),
    (("info", "RUN/metrics.jsonl"), 3, "metrics.jsonl"),
]


@pytest.mark.parametrize(("words", "code", "text"), BAD, ids=lambda v: " ".join(v) if isinstance(v, tuple) else "")
def test_bad_input_is_one_line(words, code: int, text: str, landscape, runs: Path, tmp_path: Path) -> None:
    said = landscape(*(w.replace("RUN", str(runs / "sgd-seed0")) for w in words))
    assert said.code == code, said.err
    assert text in said.error, said.error
    assert "Traceback" not in said.err
    assert said.out == ""
    left = [
        p for p in tmp_path.rglob("*") if p.is_file() and "state" not in p.parts and not p.name.startswith(".lock")
    ]
    assert left == []


def test_small_data_and_labels_of_every_split(landscape, tmp_path: Path) -> None:
    (tmp_path / "d.py").write_text(
        "import torch\nx, y = torch.ones(9, 4), torch.arange(9) % 3\n"
        "def good(): return {'train': (x, y)}\ndef bad(): return {'train': (x, y), 'test': (x, y + 5)}\n"
        "def net(): return torch.nn.Linear(4, 3)\n"
    )
    words = ("train", "--model", "d.py:net", "--steps", 2)
    said = landscape(*words, "--data", "d.py:good", "--json")
    assert said.code == 0, said.err
    run = said.json["runs"][0]
    assert json.loads((Path(run["path"]) / "run.json").read_text())["spec"]["batch_size"] == 9
    assert run["final"]["test_loss"] is None
    refused = landscape(*words, "--data", "d.py:bad", "--out", "other")
    assert refused.code == 3
    assert "label 7 is outside 0..2" in refused.error
    assert not (tmp_path / "other").exists()


def test_a_configuration_beside_targets(landscape, runs: Path, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("top = 1\nexamples = 100\n")
    said = landscape("hessian", runs / "sgd-seed0", "--config", "c.toml", "--json")
    assert said.code == 0, said.err
    assert (len(said.json["eigenvalues"]), said.json["n_examples"]) == (1, 100)
    (tmp_path / "c.toml").write_text("json = true\n")
    assert landscape("info", runs / "sgd-seed0", "--config", "c.toml").json["kind"] == "run"


CONFIGS = [
    ("epochs = \n", "line 1"),
    ("epochs = 1\nepochs = 2\n", "overwrite"),
    ("epoch = 1\n", "did you mean 'epochs'"),
    ('epochs = "many"\n', "expected a whole number"),
    ("rho = -1\noptimizer = ['sam']\n", "rho=-1"),
]


@pytest.mark.parametrize(("content", "text"), CONFIGS)
def test_a_broken_configuration_is_named(content: str, text: str, landscape, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(content)
    said = landscape("train", "--config", "c.toml")
    assert said.code == 2
    assert "c.toml" in said.error
    assert text in said.error


def test_train_mode_needs_a_seed_where_something_is_random(landscape, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\n\n\ndef network():\n    return torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Tanh(), "
        "torch.nn.Dropout(0.5), torch.nn.Linear(4, 2))\n\n\ndef data():\n    torch.manual_seed(0)\n"
        "    x = torch.randn(40, 2)\n    return {'train': (x, (x[:, 0] > 0).long())}\n"
    )
    words = ("--model", "mine.py:network", "--data", "mine.py:data", "--top", 2, "--json")
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Dropout(0.5), torch.nn.Linear(4, 2))
    torch.save(layers.state_dict(), "w.pt")
    refused = landscape("hessian", "w.pt", *words, "--mode", "train")
    assert refused.code == 2
    assert "in train mode 2 draws random numbers in every pass" in refused.error
    replayed = landscape("hessian", "w.pt", *words, "--mode", "train", "--replay-seed", 1)
    assert replayed.code == 0, replayed.err
    plain = landscape("hessian", "w.pt", *words).json
    assert replayed.json["result"] != plain["result"]
    assert replayed.json["eigenvalues"] != pytest.approx(plain["eigenvalues"], rel=1e-2)
    assert (replayed.json["mode"], replayed.json["replay_seed"]) == ("train", 1)
    assert landscape("hessian", "w.pt", *words, "--replay-seed", 1).code == 2
