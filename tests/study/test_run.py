"""A small study, whole: what is done stays done, what fails is recorded, and the numbers are those of the runs."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from landscape.analyses.analyze import analyze
from landscape.base.errors import Interrupted, ResourceError, UsageError
from landscape.base.files import folder_lock
from landscape.results.run import Run
from landscape.specs import ProblemSpec, SharpnessSpec
from landscape.specs.study import Experiment
from landscape.study import job as job_module
from landscape.study.cost import estimate
from landscape.study.findings import caveats
from landscape.study.folder import StudyFolder, wanted
from landscape.study.job import Job, give_up, work
from landscape.study.study import describe, jobs, run, statistics, status
from landscape.study.table import collect
from landscape.training.signals import StopFlag


def read(text: str, **options: Any) -> Experiment:
    return Experiment.from_content(tomllib.loads(text), "tiny.toml", **options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Experiment, StudyFolder]:
    from study.conftest import TINY

    experiment = read(TINY)
    folder = StudyFolder(tmp_path_factory.mktemp("study") / "tiny")
    now = run(experiment, folder)
    assert (now["done"], now["failed"], now["to do"]) == (12, 0, 0)
    return experiment, folder


def test_every_number_is_that_of_its_run(finished):
    experiment, folder = finished
    for model in collect(experiment, folder).models[::5]:
        ran = Run(folder.path / "runs" / model.name)
        final = ran.record["final"]
        assert model.outcomes["gap_loss"] == final["test_loss"] - final["train_loss"]
        assert model.outcomes["gap_error"] == pytest.approx(final["train_accuracy"] - final["test_accuracy"])
        again = analyze(
            "sharpness", str(ran.path), ProblemSpec(), SharpnessSpec(measure=("m-sharpness",), m=(8,), rho=(0.1,)),
            out=folder.path / "elsewhere",
        )  # fmt: skip
        assert model.predictors["m-sharpness m=8 rho=0.1"] == again["measures"][0]["value"]
        assert model.predictors["learning rate"] == ran.spec["lr"]


@pytest.mark.parametrize(
    "change", ["report.within=['nosuch']", "report.compare=['nosuch']", "report.baseline='nosuch'"]
)
def test_a_report_that_cannot_be_made_is_refused_before_anything_is_trained(tmp_path: Path, tiny: str, change: str):
    with pytest.raises(UsageError, match="nosuch"):
        run(read(tiny, changes=[change]), StudyFolder(tmp_path / "study"))
    assert not (tmp_path / "study").exists()


def test_nothing_is_done_twice(finished, monkeypatch: pytest.MonkeyPatch):
    experiment, folder = finished

    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("this was done already")

    monkeypatch.setattr(job_module, "train_one", forbidden)
    monkeypatch.setattr(job_module, "analyze", forbidden)
    assert run(experiment, folder)["done"] == 12
    assert jobs(experiment, folder) == []


def test_a_further_analysis_trains_nothing_again(finished, monkeypatch: pytest.MonkeyPatch, tiny: str):
    _, folder = finished
    more = read(tiny + '[[analyses]]\nkind = "sharpness"\nmeasure = ["gradient-norm"]\nmodels = 2\n')
    assert status(more, folder)["begun"] == 2
    monkeypatch.setattr(job_module, "train_one", lambda *_, **__: pytest.fail("trained again"))
    run(more, folder)
    values = [m.predictors.get("gradient-norm") for m in collect(more, folder).models]
    assert sum(v is not None for v in values) == 2


def test_curvature_of_the_worst_domain_beside_the_pooled(tmp_path: Path, tiny: str):
    text = tiny.partition("[[analyses]]")[0] + '[[analyses]]\nkind = "hessian"\ntop = 1\nper_domain = true\n'
    text = text.replace('["sgd", "sam"]', '["sgd"]').replace("[0.05, 0.2]", "[0.05]").replace("[0, 1, 2]", "[0]")
    experiment, folder = read(text), StudyFolder(tmp_path / "s")
    run(experiment, folder)
    (model,) = collect(experiment, folder).models
    found = model.predictors
    tops = [found[f"lambda_1 [d{i}]"] for i in range(3)]
    assert found["lambda_1 [worst domain]"] == max(tops)
    assert found["lambda_1 [mean over domains]"] == pytest.approx(np.mean(tops))
    assert found["lambda_1 [worst domain / pooled]"] == pytest.approx(max(tops) / found["lambda_1"])
    # The pooled Hessian is the mean of the domains', so that the worst of them has at least its curvature.
    assert found["lambda_1 [worst domain / pooled]"] > 1


def test_controls_say_which_measures_move(tmp_path: Path, tiny: str):
    text = tiny.replace("[0, 1, 2]", "[0]") + (
        '[[analyses]]\nkind = "sharpness"\nmeasure = ["weight-norm", "fisher-rao"]\ncontrol = "rescale"\nmodels = 2\n'
    )
    experiment, folder = read(text), StudyFolder(tmp_path / "s")
    assert run(experiment, folder)["done"] == 4
    table = collect(experiment, folder)
    moves = {c["measure"]: (c["moves"], c["models"]) for c in table.controls}
    assert moves == {"weight-norm": (True, 2), "fisher-rao": (False, 2)}
    assert table.measures == ["m-sharpness m=8 rho=0.1", "weight-norm"]
    assert any("not invariant under rescaling" in c.lower() for c in caveats(statistics(experiment, folder).record))


def test_further_splits_have_gaps_of_their_own(tmp_path: Path, tiny: str):
    text = tiny.replace("[0, 1, 2]", "[0]").replace('"gaussian-domains"', '"digits-rotated"')
    text = text.replace('"n=40"', '"corruption=0.5"').replace('["sgd", "sam"]', '["sgd"]')
    experiment, folder = read(text), StudyFolder(tmp_path / "s")
    run(experiment, folder)
    for model in collect(experiment, folder).models:
        final = Run(folder.path / "runs" / model.name).record["final"]
        assert model.outcomes["corrupted_gap_loss"] == final["corrupted_loss"] - final["train_loss"]
        assert model.record["training"]["sizes"]["corrupted"] == model.record["training"]["sizes"]["test"]


def test_further_seeds_leave_the_others_alone(finished, tiny: str):
    experiment, folder = finished
    more = read(tiny.replace("init = [0, 1, 2]", "init = [0, 1, 2, 3]"))
    assert {k: status(more, folder)[k] for k in ("done", "to do")} == {"done": 12, "to do": 4}
    assert {j.cell.repetition for j in jobs(more, folder)} == {3}
    assert len(experiment.cells) == 12


def test_the_statistics_are_stored(finished):
    experiment, folder = finished
    result = statistics(experiment, folder)
    assert (folder.path / "study.nc").is_file()
    assert result.data["value"].sizes == {"model": 12, "measure": 8}
    assert len(result["models"]) == 12
    assert {r["verdict"] for r in result["correlations"]} == {"cannot tell"}  # 4 configurations
    assert result["comparison"]["baseline"] == "sgd"
    assert result["uniform"] == [{"analysis": "sharpness", "label": "", "seed": 0, "differs": []}]


def test_models_that_miss_the_target_are_dropped_and_counted(tmp_path: Path, tiny: str):
    text = tiny.replace("steps = 6", "steps = 40\nstop_at = 0.4").replace("[0, 1, 2]", "[0]")
    experiment = read(text.replace("[0.05, 0.2]", "[0.001, 0.2]"))
    folder = StudyFolder(tmp_path / "s")
    run(experiment, folder)
    table = collect(experiment, folder)
    dropped = sum(d["count"] for d in table.dropped)
    reached = [Run(p).record["stopped"]["reached"] for p in (folder.path / "runs").iterdir()]
    assert len(table.models) == sum(reached)
    assert dropped == len(reached) - sum(reached)
    assert all(d["reason"] == "the training loss did not reach 0.4" for d in table.dropped)
    assert 0 < dropped < 4
    described = describe(table, experiment.report, {})
    assert sum(d["count"] for d in described["dropped"]) == dropped


def test_what_diverges_is_recorded_and_stops_nothing(tmp_path: Path, tiny: str):
    text = tiny.replace("[0.05, 0.2]", "[0.05, 1e30]").replace("[0, 1, 2]", "[0]")
    experiment, folder = read(text), StudyFolder(tmp_path / "s")
    now = run(experiment, folder)
    assert (now["done"], now["failed"]) == (2, 2)
    assert {f["what"] for f in now["failures"]} == {"training"}
    assert all("step" in f["reason"] and "lower `lr=`" in f["reason"] for f in now["failures"])
    table = collect(experiment, folder)
    assert {d["arm"] for d in table.dropped} == {"sgd", "sam"}
    assert all(d["reason"].startswith("the training failed: ") for d in table.dropped)
    assert jobs(experiment, folder) == []  # not again by itself
    assert len(jobs(experiment, folder, retry=True)) == 2


def test_a_failed_analysis_leaves_the_others(tmp_path: Path, tiny: str):
    text = (
        tiny.replace("[0, 1, 2]", "[0]") + '[[analyses]]\nkind = "sharpness"\nmeasure = ["m-sharpness"]\nm = [999]\n'
    )
    experiment, folder = read(text), StudyFolder(tmp_path / "s")
    now = run(experiment, folder)
    assert now["failed"] == 4
    assert "999" in now["failures"][0]["reason"]
    table = collect(experiment, folder)
    assert len(table.models) == 4
    assert "m-sharpness m=8 rho=0.1" in table.measures
    assert table.failed_analyses[0]["count"] == 4


def one_job(folder: Path, text: str) -> Job:
    experiment = read(text)
    cell = experiment.cells[0]
    return Job(str(folder), cell, tuple(wanted(experiment, cell)))


def test_out_of_memory_is_recorded(tmp_path: Path, tiny: str, monkeypatch: pytest.MonkeyPatch):
    def greedy(*_: Any, **__: Any) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: tried 1 EB")

    monkeypatch.setattr(job_module, "train_one", greedy)
    record = work(one_job(tmp_path, tiny))
    assert record["training"]["status"] == "failed"
    assert record["training"]["reason"].startswith("out of memory")


def test_a_full_disk_is_no_fault_of_the_job(tmp_path: Path, tiny: str, monkeypatch: pytest.MonkeyPatch):
    def full(*_: Any, **__: Any) -> None:
        raise ResourceError("no space left to write") from OSError(28, "No space left on device")

    monkeypatch.setattr(job_module, "train_one", full)
    job = one_job(tmp_path, tiny)
    with pytest.raises(ResourceError):
        work(job)
    assert StudyFolder(tmp_path).record(job.cell)["training"] is None


def test_a_signal_stops_between_steps_and_everything_goes_on(tmp_path: Path, tiny: str):
    job = one_job(tmp_path, tiny)
    stop = StopFlag()
    stop.signal = "SIGTERM"
    with pytest.raises(Interrupted):
        work(job, stop)
    assert StudyFolder(tmp_path).record(job.cell)["training"] is None
    assert work(job)["training"]["status"] == "done"


def test_a_kill_before_the_run_was_described(tmp_path: Path, tiny: str):
    job = one_job(tmp_path, tiny)
    (tmp_path / "runs" / job.cell.name / "checkpoints").mkdir(parents=True)
    assert work(job)["training"]["status"] == "done"


def test_a_half_done_run_of_other_settings_is_begun_anew(tmp_path: Path, tiny: str):
    job = one_job(tmp_path, tiny)
    run_folder = tmp_path / "runs" / job.cell.name
    (run_folder / "checkpoints").mkdir(parents=True)
    (run_folder / "run.json").write_text(json.dumps({"spec": {}, "status": "running", "config_hash": "old"}))
    assert work(job)["training"]["status"] == "done"


def test_a_job_that_kills_its_workers_is_given_up(tmp_path: Path, tiny: str):
    job = one_job(tmp_path, tiny)
    give_up(job, "its workers died")
    record = work(job)
    assert (record["training"]["status"], record["training"]["reason"]) == ("failed", "its workers died")
    trained = one_job(tmp_path, tiny.replace("steps = 6", "steps = 5"))
    work(Job(trained.study, trained.cell, ()))
    give_up(trained, "its workers died")
    record = StudyFolder(tmp_path).record(trained.cell)
    assert record["training"]["status"] == "done"
    assert [a["status"] for a in record["analyses"].values()] == ["failed"]


def test_one_study_a_folder_and_one_process_a_study(tmp_path: Path, tiny: str):
    experiment, folder = read(tiny), StudyFolder(tmp_path / "s")
    with folder_lock(folder.path), pytest.raises(UsageError, match="in use by process"):
        run(experiment, folder)
    (tmp_path / "s" / "study.json").write_text(json.dumps({"name": "other"}))
    with pytest.raises(UsageError, match="the folder holds the study 'other'"):
        run(experiment, folder)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(UsageError, match="the folder holds other files"):
        run(experiment, StudyFolder(tmp_path / "mine"))
    with pytest.raises(UsageError, match="no model is finished"):
        statistics(experiment, StudyFolder(tmp_path / "nothing"))


def test_the_cost_is_measured_and_leaves_nothing(tmp_path: Path, tiny: str):
    experiment = read(tiny)
    cost = estimate(experiment, StudyFolder(tmp_path / "s"), workers=2)
    assert {p["optimizer"] for p in cost["probes"]} == {"sgd", "sam"}
    assert cost["training_seconds"] > 0
    assert cost["wall_seconds"] == pytest.approx((cost["training_seconds"] + cost["analysis_seconds"]) / 2, abs=0.1)
    longer = estimate(read(tiny.replace("steps = 6", "steps = 60000")), StudyFolder(tmp_path / "s"))
    assert longer["training_seconds"] > 100 * cost["training_seconds"]
    assert not (tmp_path / "s").exists()


def test_a_pretraining_is_done_once_for_all_that_start_from_it(tmp_path: Path, tiny: str):
    text = tiny.replace("[grid]", "[pretrain]\nholdout = ['d0']\nsteps = 4\n[grid]")
    text = text.replace("steps = 6", "steps = 3\ntrain_only = '^layers.1'", 1).replace("[0, 1, 2]", "[0, 1]")
    experiment, folder = read(text), StudyFolder(tmp_path / "s")
    assert not {c.name for c in experiment.cells} & {
        c.name for c in read(text.replace("steps = 4", "steps = 5")).cells
    }
    assert estimate(experiment, folder)["training_seconds"] > 0
    assert run(experiment, folder)["done"] == len(experiment.cells) == 8
    bodies = {r.spec["seed"][0]: r for r in map(Run, (folder.path / "pretrained").iterdir())}
    assert sorted(bodies) == [0, 1]
    assert {(tuple(b.spec["holdout"]), b.record["steps"], tuple(b.spec["optimizer"])) for b in bodies.values()} == {
        (("d0",), 4, ("sgd",))
    }
    for cell in experiment.cells:
        before, after = (load_file(r.checkpoint()) for r in (bodies[cell.spec.seed[0]], folder.run(cell)))
        assert folder.run(cell).record["weights_at_start"] == bodies[cell.spec.seed[0]].record["weights_hash"]
        assert all(torch.equal(before[k], after[k]) == k.startswith("layers.0") for k in before)


def test_the_order_of_the_examples_has_a_seed_of_its_own(tmp_path: Path, tiny: str):
    text = tiny.replace("init = [0, 1, 2]", "init = [0]\norder = [0, 1]").replace('["sgd", "sam"]', '["sgd"]')
    experiment, folder = read(text.replace("[0.05, 0.2]", "[0.05]")), StudyFolder(tmp_path / "s")
    run(experiment, folder)
    a, b = (Run(p).record for p in sorted((folder.path / "runs").iterdir()))
    assert a["weights_at_start"] == b["weights_at_start"]
    assert a["weights_hash"] != b["weights_hash"]


def test_measurement_seeds_are_averaged_and_kept(tmp_path: Path, tiny: str):
    text = tiny.replace("init = [0, 1, 2]", "init = [0]\nmeasurement = [0, 1, 2]")
    text = text.replace("rho = [0.1]", "rho = [0.1]\nexamples = 32")
    experiment, folder = read(text), StudyFolder(tmp_path / "s")
    run(experiment, folder)
    table = collect(experiment, folder)
    for model in table.models:
        values = model.repeats["m-sharpness m=8 rho=0.1"]
        assert len(set(values)) == 3
        assert model.predictors["m-sharpness m=8 rho=0.1"] == pytest.approx(np.mean(values))
    assert table.repeatability("m-sharpness m=8 rho=0.1") is not None
    assert table.repeatability("weight-norm") == 1
