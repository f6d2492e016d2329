"""The plan of the house: its rooms stand in one order, and imports go only towards the first."""

from __future__ import annotations

import ast
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# A room imports only from itself and from rooms before it. CONTRIBUTING.md says what each is for.
ROOMS = (
    *("_deprecated", "base", "storage", "registry", "specs", "runtime", "numerics", "data", "weights", "autograd"),
    *(
        "sharding",
        "problem",
        "results",
        "models",
        "optim",
        "curvature",
        "measures",
        "surfaces",
        "domainwise",
        "training",
    ),
    *("analyses", "study", "figures", "report", "integrations", "testing", "api"),
)
WITHOUT_TORCH = ("_deprecated", "base", "storage", "registry", "specs", "figures", "report")
FILES = {
    ".".join((f.parent if f.name == "__init__.py" else f.with_suffix("")).relative_to(ROOT).parts): f
    for f in sorted((ROOT / "landscape").rglob("*.py"))
}


def imports(file: Path) -> set[str]:
    """Absolute names of all modules that a file imports, anywhere in it, those for type checkers alone left out."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    folder = file.parent.relative_to(ROOT).parts
    found = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = folder[: len(folder) - node.level + 1] if node.level else ()
            name = ".".join([*base, *([node.module] if node.module else [])])
            # What is imported from a package is a module of it, or a name in its __init__.
            found |= {f"{name}.{a.name}" if f"{name}.{a.name}" in FILES else name for a in node.names}
    return found


IMPORTS = {module: imports(file) for module, file in FILES.items()}


def room(module: str) -> str:
    """The first word below ``landscape``; empty for the package itself, which shows what is public."""
    return [*module.split("."), ""][1]


def circle(graph: dict[str, set[str]]) -> list[str]:
    """A circle of imports, or nothing."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def upward(graph: dict[str, set[str]]) -> list[str]:
    """Imports of a room further on."""
    return [
        f"{module} imports {other}"
        for module, others in graph.items()
        for other in sorted(others)
        if room(module) and other in FILES and ROOMS.index(room(other)) > ROOMS.index(room(module))
    ]


def test_a_room_imports_only_from_rooms_before_it():
    assert {room(module) for module in FILES} == {"", *ROOMS}, "a room has no place in the order"
    assert not [m for m in FILES if room(m) and "landscape" in IMPORTS[m]], "what is public is for users"
    assert not upward(IMPORTS)


def test_no_circles():
    assert not circle({module: {o for o in others if room(o)} for module, others in IMPORTS.items() if room(module)})


def test_no_torch_in_the_first_rooms_and_in_figures():
    torch = {"torch", "safetensors", "torchvision", "timm"}
    found = {m: {n.split(".")[0] for n in IMPORTS[m]} & torch for m in FILES if room(m) in WITHOUT_TORCH}
    assert not {module: names for module, names in found.items() if names}


@pytest.mark.parametrize(
    ("source", "wrong"),
    [
        ("from ..curvature import hessian", upward),
        ("from landscape.figures.render import render", upward),
        ("def late():\n    from ..study.study import run", upward),
        ("from .problem import Problem", circle),
        ("from . import problem", circle),
    ],
)
def test_the_tests_see_what_is_wrong(source: str, wrong, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A file of the room ``problem`` that imports from a later room, or what imports it."""
    file = ROOT / "landscape/problem/passes.py"
    planted = tmp_path / "landscape/problem/passes.py"
    planted.parent.mkdir(parents=True)
    planted.write_text(file.read_text(encoding="utf-8") + "\n\n" + source, encoding="utf-8")
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    assert wrong({**IMPORTS, "landscape.problem.passes": imports(planted)})


def test_the_library_does_not_know_its_command_line():
    assert not [m for m in FILES if {n.split(".")[0] for n in IMPORTS[m]} & {"landscape_cli", "cli"}]
    assert not [m for m, file in FILES.items() if "landscape_cli" in file.read_text(encoding="utf-8")]


def test_the_command_line_imports_itself_relatively():
    for file in (ROOT / "cli").rglob("*.py"):
        nodes = [n for n in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(n, ast.ImportFrom)]
        assert not {n for n in nodes if not n.level and (n.module or "").split(".")[0] in ("landscape_cli", "cli")}


def test_the_tree_can_be_read():
    """Few loose files, rooms of a size that can be looked over, and a sentence at the door of each."""
    assert {p.name for p in (ROOT / "landscape").iterdir() if p.is_file()} == {
        *("__init__.py", "_deprecated.py", "api.py", "py.typed")
    }
    for folder in {f.parent for f in FILES.values()}:
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))), folder
        assert len([f for f in folder.glob("*.py") if f.name != "__init__.py"]) <= 17, folder


def test_every_room_is_in_the_plan_for_people():
    plan = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert not [name for name in ROOMS if f"{name}/" not in plan and f"{name}.py" not in plan]


def test_every_package_is_shipped():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    shipped = set(settings["packages"])
    assert {m for m, file in FILES.items() if file.name == "__init__.py"} == shipped - {"landscape_cli"}
    assert {f.name for f in (ROOT / "cli").iterdir() if f.is_dir() and list(f.glob("*.py"))} <= shipped
