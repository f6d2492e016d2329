"""What the integrations show of themselves runs, and Lightning under its older name as well."""

from __future__ import annotations

import doctest
import importlib
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("libraries"),
    pytest.mark.filterwarnings("ignore"),
]

OLD_NAME = """
import pytorch_lightning as pl, torch
from landscape.optim import SAM
from landscape.integrations.lightning import SharpnessAware
from pytorch_lightning.demos.boring_classes import BoringModel

class Flat(BoringModel):
    def configure_optimizers(self):
        return SAM(torch.optim.SGD(self.parameters(), lr=0.1))

assert issubclass(SharpnessAware, pl.Callback)
trainer = pl.Trainer(max_steps=2, accumulate_grad_batches=4, callbacks=[SharpnessAware()], logger=False)
trainer.fit(Flat())
assert trainer.global_step == 2
"""


@pytest.mark.parametrize(
    "name",
    [
        *("lightning:SharpnessAware", "lightning:Landscape"),
        *("huggingface:SharpnessAware", "huggingface:Backward", "huggingface:LandscapeCallback"),
    ],
)
def test_the_example_of(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    room, what = name.split(":")
    shown = getattr(importlib.import_module(f"landscape.integrations.{room}"), what)
    examples = doctest.DocTestParser().get_doctest(inspect.getdoc(shown) or "", {}, name, None, 0)
    assert examples.examples
    said: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(examples, out=said.append)
    assert not said, "".join(said)


def test_lightning_under_its_older_name(tmp_path: Path):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    words = [sys.executable, "-c", f"import declared_operators\n{OLD_NAME}"]
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
