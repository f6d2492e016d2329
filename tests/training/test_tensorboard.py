"""Event files: read back with TensorBoard's own reader."""

from __future__ import annotations

import json
import math
import posixpath
import re
import sys
from pathlib import Path

import pytest

import landscape
from landscape.api import train
from landscape.base.errors import UsageError

SETTINGS = {"data": "digits-rotated", "optimizer": ("sam",), "epochs": 2, "batch_size": 256, "holdout": ("75",)}
SETTINGS |= {"data_arg": ("angles=[0,75]",), "probe": ("surrogate-gap@every=2",)}


def events(folder: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    found.Reload()
    return found


def test_event_files_hold_what_the_run_logged_and_its_figures(tmp_path: Path):
    (run,) = train(tmp_path, tensorboard=True, **SETTINGS)
    found = events(run.path / "tensorboard")
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    logged = {line["step"]: line["loss"] for line in lines if line.get("loss") is not None}
    shown = {e.step: e.value for e in found.Scalars("batch/loss")}
    assert shown == pytest.approx(logged)
    tags = set(found.Tags()["scalars"])
    assert {"lr", "evaluation/train_loss", "evaluation/unseen_accuracy", "domain/0/train_loss"} <= tags
    assert {"probe/surrogate-gap/h", "batch/domain/0"} <= tags
    last = [line for line in lines if line.get("evaluation")][-1]
    final = found.Scalars("evaluation/test_accuracy")[-1]
    assert final.step == last["step"]
    assert final.value == pytest.approx(last["evaluation"]["test_accuracy"])
    pictures = found.Tags()["images"]
    assert {"figures/training", "figures/probes"} <= set(pictures)
    picture = found.Images("figures/training")[0]
    assert picture.encoded_image_string.startswith(b"\x89PNG")
    assert picture.width == 600


def test_numbers_of_a_row_have_names_that_every_logger_takes():
    """Letters, digits and ``_/. -``: what MLflow and Weights & Biases take; equal only where labels are."""
    values = {
        "val_loss": 1.0,
        "domains": {"rot 15\u00b0": {"loss": 2.0}, "rot 15'": {"loss": 3.0}, "..": {"loss": 4.0}},
    }
    row = {"step": 3, "loss": math.nan, "domains": {"a/b": 0.5, "a.b": 0.25}, "evaluation": values, "probes": None}
    row["note"] = "text"
    found = landscape.scalars(row)
    assert sorted(found.values()) == [0.25, 0.5, 1.0, 2.0, 3.0, 4.0]
    assert {"batch/domain/a.b", "evaluation/val_loss"} <= set(found)
    assert all(re.fullmatch(r"[A-Za-z0-9_/. -]+", name) and posixpath.normpath(name) == name for name in found)


def test_event_files_change_nothing_else(tmp_path: Path):
    (plain,) = train(tmp_path / "a", **SETTINGS)
    (shown,) = train(tmp_path / "b", tensorboard=True, **SETTINGS)
    assert plain.record["weights_hash"] == shown.record["weights_hash"]
    assert plain.record["config_hash"] == shown.record["config_hash"]
    assert not (plain.path / "tensorboard").exists()


def test_a_continued_run_hides_what_older_files_hold_of_later_steps(tmp_path: Path):
    from landscape.storage.event_files import EventFile

    first = EventFile(tmp_path)
    for step in range(5):
        first.scalars(step, {"loss": float(step), "none": None, "lost": float("nan")})
    first.close()
    second = EventFile(tmp_path, step=3)
    second.scalars(3, {"loss": 30.0})
    second.close()
    found = events(tmp_path)
    assert [(e.step, e.value) for e in found.Scalars("loss")] == [(0, 0), (1, 1), (2, 2), (3, 30)]
    assert found.Tags()["scalars"] == ["loss"]


def test_without_tensorboard_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(UsageError, match=r"pip install 'flatminima\[tensorboard\]'"):
        train(tmp_path / "runs", tensorboard=True, **SETTINGS)
    assert not (tmp_path / "runs").exists()
