"""What a person meets at the terminal and in Python before anything is computed: help, lists, names, refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from landscape_cli.app import COMMANDS, EXAMPLES, main

import landscape
from landscape.analyses.analyze import standard_set
from landscape.base.errors import UsageError
from landscape.registry import PROBES
from landscape.specs import HessianSpec

EVERY = list(COMMANDS)


@pytest.mark.parametrize("command", EVERY)
def test_help_fits_the_terminal_and_ends_with_an_example(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "80")
    assert main([command, "--help"]) == 0
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    assert said.splitlines()[-1] == f"example: {EXAMPLES[command]}"
    assert EXAMPLES[command].split()[1] == command
    for private in ("spec options", "options options", "problem options", "STR [STR ...]]]  "):
        assert private not in said


@pytest.mark.parametrize("command", ["hessian", "sharpness", "surface", "path", "domains", "analyze", "report"])
def test_a_target_is_called_one(command: str, capsys: pytest.CaptureFixture[str]):
    main([command, "--help"])
    assert "TARGET [TARGET ...]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["plot", "x", "--venue", "nips"], "did you mean 'neurips'"),
        (["hessian", "x", "--operator", "hesian"], "did you mean 'hessian'"),
        (["list", "prob"], "did you mean 'probes'"),
        (["study", "runn", "x"], "did you mean 'run'"),
        (["surface", "x", "--bn", "recalibrat"], "did you mean 'recalibrate'"),
    ],
)
def test_every_fixed_choice_suggests_the_nearest(words: list[str], meant: str, capsys: pytest.CaptureFixture[str]):
    assert main(words) == 2
    assert meant in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["hessian", "x", "--top", "three"],
            "error: 'three' is no whole number (--top): see landscape hessian --help",
        ),
        (["hessian", "x", "--tol", "small"], "error: 'small' is no number (--tol): see landscape hessian --help"),
        (
            ["info"],
            "error: TARGET is missing (command line): a run folder, RUN@best, RUN@step=N, a checkpoint file or ",
        ),
        (["list"], "error: WHAT is missing (command line): one of: optimizers, models, data, "),
    ],
)
def test_what_does_not_parse_is_said_in_plain_words(words: list[str], told: str, capsys: pytest.CaptureFixture[str]):
    assert main(words) == 2
    assert told in capsys.readouterr().err


def test_nothing_is_no_choice_that_is_offered(capsys: pytest.CaptureFixture[str]):
    assert main(["surface", "x", "--bn", "recalibrat"]) == 2
    assert "None" not in capsys.readouterr().err


@pytest.mark.parametrize("command", ["hessian", "sharpness", "surface", "domains", "analyze"])
def test_a_missing_path_is_found_before_torch_is_imported(command: str):
    code = (
        "import sys; from landscape_cli.app import main; code = main([sys.argv[1], 'nothing.pt']);"
        "print(code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, command], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "False"]
    assert "there is no such run or checkpoint (nothing.pt)" in done.stderr


def test_with_json_an_error_is_one_object_too(capsys: pytest.CaptureFixture[str]):
    assert main(["hessian", "nothing.pt", "--json"]) == 2
    said = capsys.readouterr()
    assert json.loads(said.out) == {
        "error": {
            "what": "there is no such run or checkpoint",
            "where": "nothing.pt",
            "fix": "name a run folder or a checkpoint file",
            "exit": 2,
        }
    }
    assert said.err.count("\n") == 1
    assert main(["hessian", "x", "--json", "--topp", "3"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["exit"] == 2


def test_results_that_end_in_an_error_are_one_object_with_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    [run] = landscape.train(tmp_path, data="gaussian-domains", model="mlp", steps=3)
    capsys.readouterr()
    words = ["hessian", str(run.path), "--top", "3", "--max-products", "4", "--tol", "1e-9", "--json"]
    assert main(words) == 4
    found = json.loads(capsys.readouterr().out)
    assert found["error"]["exit"] == 4
    assert len(found["eigenvalues"]) == 3


def test_probes_and_venues_are_listed(capsys: pytest.CaptureFixture[str]):
    assert main(["list", "probes"]) == 0
    said = " ".join(capsys.readouterr().out.split())  # lines are wrapped
    for name, entry in PROBES.items():
        assert name in said
        assert entry.summary in said
        assert callable(entry.load())
    assert main(["list", "venues", "--json"]) == 0
    venues = json.loads(capsys.readouterr().out)["venues"]
    assert {"name": "icml", "widths": [3.25, 6.75]}.items() <= next(v for v in venues if v["name"] == "icml").items()


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_every_command_and_flag(
    shell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setenv("SHELL", f"/bin/{shell}")
    assert main(["--install-completion"]) == 0
    path = Path(capsys.readouterr().out.splitlines()[0].removeprefix("completion: "))
    text = path.read_text()
    for command in COMMANDS:
        assert command in text
    assert "--trace-rtol" in text
    if shell == "bash":
        words = "COMP_WORDS=(landscape hessian --trace-r); COMP_CWORD=2"
        ask = f"source {path}; {words}; _tyro_landscape; echo ${{COMPREPLY[@]}}"
        done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["--trace-rtol"]
    assert main(["--install-completion", "fish"]) == 2
    assert "bash, zsh" in capsys.readouterr().err


def test_a_report_goes_where_out_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    [run] = landscape.train(tmp_path / "runs", data="gaussian-domains", model="mlp", steps=3)
    landscape.domains(landscape.open(run)).save(tmp_path / "d.nc")
    assert main(["report", "d.nc", "--out", "pages/mine.html"]) == 0
    assert (tmp_path / "pages/mine.html").is_file()
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("columns", [80, 130])
def test_domains_have_one_line_each_and_what_has_no_room_is_said(
    columns: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", str(columns))
    [run] = landscape.train(tmp_path, data="gaussian-domains", model="mlp", steps=3)
    assert main(["domains", str(run.path)]) == 0
    said = capsys.readouterr().out
    assert max(len(line) for line in said.splitlines() if str(tmp_path) not in line) <= columns
    block = said[said.index("split train") : said.index("split test")].splitlines()
    head = next(i for i, line in enumerate(block) if "accuracy (95 %)" in line)
    end = next(i for i, line in enumerate(block) if i > head and not line.strip())
    names = [line.split()[0] for line in block[head + 2 : end]]
    assert len(names) == len(set(names)) == len(run.record["final"]["domains"])  # nothing is folded
    gone = [name for name in ("DISAM weight", "lowest cos", "|gradient|") if name not in block[head]]
    assert (f"no room for {', '.join(gone)}: a wider terminal" in said) == bool(gone) == (columns == 80)


MODEL = torch.nn.Linear(2, 3)
PROBLEM = landscape.Problem(MODEL, (torch.randn(6, 2), torch.arange(6) % 3), "cross_entropy")


@pytest.mark.parametrize("verb", ["hessian", "sharpness", "surface", "domains", "path"])
def test_a_module_in_place_of_a_problem_gets_the_sentence_that_helps(verb: str):
    call = getattr(landscape, verb)
    more = ("other.pt",) if verb == "path" else ()
    with pytest.raises(UsageError, match=rf"landscape\.{verb}\(landscape\.Problem\(model, data, loss\)\)"):
        call(MODEL, *more)
    with pytest.raises(UsageError, match=r"landscape\.open\(target\)"):
        call("runs/sam-seed0", *more)
    with pytest.raises(UsageError, match="takes a Problem, not a int"):
        call(3, *more)


def test_wrong_words_in_python_name_their_neighbours():
    with pytest.raises(UsageError, match=r"unknown option 'topp'.*did you mean 'top'"):
        landscape.hessian(PROBLEM, topp=2)
    with pytest.raises(UsageError, match="did you mean 'eigvec:K'"):
        landscape.surface(PROBLEM, direction="eigvec1")
    with pytest.raises(UsageError, match="did you mean 'rho'"):
        landscape.sharpness(PROBLEM, rhoo=0.1)


def test_one_word_stands_for_a_list_of_one(tmp_path: Path):
    [run] = landscape.train(tmp_path, data="gaussian-domains", model="mlp", steps=2, optimizer="sam", seed=3)
    assert run.path.name == "sam-seed3"
    assert len(landscape.sharpness(PROBLEM, measure="m-sharpness", m=2, rho=[0.05, 0.1])["measures"]) == 2


def test_a_report_says_beforehand_what_it_will_analyse_and_how_long_that_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    landscape.train(tmp_path / "runs", data="gaussian-domains", model="mlp", steps=3, optimizer=("sgd", "sam"))
    asked = []
    monkeypatch.setattr("landscape_cli.report.analyzed", lambda arguments, _: asked.append(arguments.targets) or [])
    monkeypatch.setattr("landscape.report.report.write_report", lambda *_, **__: None)
    words = ["report", "runs/sgd-seed0", "runs/sam-seed0"]
    landscape.analyze("hessian", "runs/sam-seed0", spec=HessianSpec(allow_partial=True))
    landscape.analyze("hessian", "runs/sgd-seed0", spec=HessianSpec(top=2))  # another one than is asked for
    assert main(words) == 0
    first = " ".join(capsys.readouterr().out.split())
    assert first.startswith(
        "eigenvalues, m-sharpness, a surface, slices and domains of 2 targets: 9 of 10 are computed now, which takes "
    )
    assert asked == [("runs/sgd-seed0", "runs/sam-seed0")]
    for name in ("sgd", "sam"):
        standard_set(f"runs/{name}-seed0")
    assert main(words) == 0
    assert "of 2 targets: all are stored" in " ".join(capsys.readouterr().out.split())
    assert main([*words, "--force", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["forecast"]
    assert (told["analyses"], told["missing"]) == (10, 10)
    assert 0 < told["seconds"] < 600
