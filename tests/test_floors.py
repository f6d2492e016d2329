"""The directions of the imports: a room imports only from floors below it, and its own folder."""

from __future__ import annotations

import ast
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLOORS = {
    1: {
        "allocator",
        "errors",
        "names",
        "registry",
        "specs",
        "files",
        "progress",
        "plugins",
        "code_files",
        "netcdf",
        "hdf5",
        "hdf5_process",
        "record_form",
        "stored_form",
        "stop_signals",
        "turns",
        "labels",
    },
    2: {
        "trees",
        "recompute",
        "losses",
        "modes",
        "stores",
        "sources",
        "reading",
        "digests",
        "examples",
        "parameters",
        "ascent",
        "checkpoint",
        "checkpoint_folders",
        "problem",
        "passes",
        "devices",
        "result",
        "run",
        "target",
        "course",
        "distributed",
        "evaluation",
        "intervals",
        "weights",
        "fitting",
        "cautions",
        "hugging_face",
        "second_derivatives",
        "substitutes",
        "surroundings",
        "equal_forms",
        "convolution",
        "norms",
        "kept_values",
        "nearby",
        "derivatives",
        "replacements",
        "products",
        "memory",
        "precision",
        "event_files",
        "fingerprint",
        "copying",
        "soundness",
        "identity",
        "origins",
        "staleness",
    },
    3: {"models", "data", "optim", "curvature", "measures", "surfaces", "domainwise"},
    4: {"training", "opening", "analysis", "joint", "study"},
    5: {"figures", "report"},
    6: {"api"},  # the public names, gathered
}
FLOOR_OF = {room: floor for floor, rooms in FLOORS.items() for room in rooms}
MAY = {
    ("report", "figures"),  # a report shows figures
    ("surfaces", "curvature"),  # a surface is cut along eigenvectors
    ("domainwise", "curvature"),  # a domain is looked at with the curvature and the measures of the whole
    ("domainwise", "measures"),
    ("study", "training"),  # a study trains and analyses
    ("study", "analysis"),
    ("analysis", "opening"),
    ("joint", "opening"),
    ("joint", "analysis"),  # analyses of several checkpoints open and store as those of one do
}
FILES = sorted((ROOT / "landscape").rglob("*.py"))


def module_of(file: Path) -> str:
    parts = list(file.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


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
    package = module_of(file).split(".") if file.name == "__init__.py" else module_of(file).split(".")[:-1]
    found = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{name}.{alias.name}" for alias in node.names} if node.level and not node.module else {name}
    return found


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def rooms_imported(file: Path) -> set[str]:
    return {room(name) for name in imports(file) if name.split(".")[0] == "landscape" and room(name)}


def test_the_parser_sees_imports():
    """These are facts of today's tree; if the parser went blind the tests below would pass for nothing."""
    assert {"evaluation", "examples", "losses"} <= rooms_imported(ROOT / "landscape/problem.py")
    assert {"problem", "specs", "curvature"} <= rooms_imported(ROOT / "landscape/curvature/hessian.py")
    assert "torch" in imports(ROOT / "landscape/parameters.py")
    assert len(FILES) > 40


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_a_room_imports_only_from_below(file: Path):
    own = room(module_of(file))
    if not own:
        return  # the package's own __init__ shows what is public
    assert own in FLOOR_OF, f"{own} stands on no floor; give it one here and in CONTRIBUTING.md"
    for other in rooms_imported(file) - {own}:
        same_floor = FLOOR_OF[own] <= 2 and FLOOR_OF[other] == FLOOR_OF[own]
        assert FLOOR_OF[other] < FLOOR_OF[own] or same_floor or (own, other) in MAY, (
            f"{own} (floor {FLOOR_OF[own]}) imports {other} (floor {FLOOR_OF[other]})"
        )


@pytest.mark.parametrize("floor", [1, 2])
def test_neighbours_on_a_low_floor_form_no_circle(floor: int):
    graph: dict[str, set[str]] = {}
    for file in FILES:
        own = room(module_of(file))
        if FLOOR_OF.get(own) == floor:
            graph.setdefault(own, set()).update(r for r in rooms_imported(file) - {own} if FLOOR_OF[r] == floor)
    assert len(list(TopologicalSorter(graph).static_order())) >= len(graph)


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_the_lowest_and_the_highest_floor_know_no_torch(file: Path):
    if FLOOR_OF.get(room(module_of(file)), 3) in (1, 5):
        assert not {n for n in imports(file) if n.split(".")[0] in ("torch", "safetensors", "torchvision", "timm")}


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_the_library_does_not_know_its_command_line(file: Path):
    assert not {n for n in imports(file) if n.split(".")[0] in ("landscape_cli", "cli")}
    assert "landscape_cli" not in file.read_text(encoding="utf-8")


def test_the_command_line_imports_itself_relatively():
    for file in (ROOT / "cli").rglob("*.py"):
        assert not {
            n
            for n in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
            if isinstance(n, ast.ImportFrom)
            and not n.level
            and (n.module or "").split(".")[0] in ("landscape_cli", "cli")
        }, file


def test_every_package_is_shipped():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {module_of(f) for f in FILES if f.name == "__init__.py"}
    folders |= {".".join(f.parent.relative_to(ROOT).parts) for f in FILES}
    shipped = set(settings["packages"])
    assert {f for f in folders if f} == {p for p in shipped if p.split(".")[0] == "landscape"}
    assert "landscape_cli" in shipped
    assert {f.name for f in (ROOT / "cli").iterdir() if f.is_dir() and list(f.glob("*.py"))} <= {
        p.split(".")[-1] for p in shipped
    }
