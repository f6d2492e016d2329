"""The files behind code: which of the user's a module runs, with their SHA-256, and which versions of libraries.

A stored number belongs to the code that computed it. A user's file is known by its content, and so is every other
file of the user's that it imports, however deep; a library by its version.
"""

from __future__ import annotations

import ast
import hashlib
import site
import sys
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from weakref import WeakKeyDictionary

# SHA-256 of each module's file, as it was when this process first asked. A file that is edited later is not the code
# that runs here; a process that starts after the edit sees the new one.
_content: WeakKeyDictionary[ModuleType, str] = WeakKeyDictionary()
_OWN = Path(__file__).resolve().parent


def is_library(module: ModuleType | None) -> bool:
    """Whether a module is Python's, this package's or an installed library's, and not the user's own code."""
    file = getattr(module, "__file__", None)
    if module is None or file is None:
        return module is None or module.__name__ != "__main__"
    return _is_installed(str(file))


@cache
def _is_installed(file: str) -> bool:
    path = Path(file).resolve()
    if path.is_relative_to(_OWN) or {"site-packages", "dist-packages"} & set(path.parts):
        return True
    return any(path.is_relative_to(folder) for folder in _installed_folders())


@cache
def _installed_folders() -> tuple[Path, ...]:
    named = [sysconfig.get_path(k) for k in ("stdlib", "platstdlib", "purelib", "platlib")]
    return tuple(Path(p).resolve() for p in (*named, *site.getsitepackages(), site.getusersitepackages()) if p)


def sources(module: ModuleType | None, sha256: str | None = None) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """What running a module of the user's runs.

    Args:
        module: The module; of a library it is the library alone.
        sha256: Of the bytes that were run as this module, where that is known better than from its file.

    Returns:
        Name and SHA-256 of every file of the user's, sorted and without the folders, so that a moved project stays
        the same; and the versions of the libraries that these files import.
    """
    files: set[tuple[str, str]] = set()
    libraries: dict[str, str] = {}
    seen: set[str] = set()
    pending = [module] if module is not None else []
    if module is not None and sha256 is not None:
        _content.setdefault(module, sha256)
    while pending:
        here = pending.pop()
        if here.__name__ in seen:
            continue
        seen.add(here.__name__)
        if is_library(here):
            top = here.__name__.partition(".")[0]
            libraries[top] = version(top)
            continue
        file = getattr(here, "__file__", None)
        if file is None:  # typed at a prompt or in a notebook: its functions are looked at one by one
            continue
        files.add((Path(file).name, _sha256_of(here, Path(file))))
        for name in _imported(here, Path(file)):
            other = sys.modules.get(name)
            if other is not None:
                pending.append(other)
            elif (neighbour := _neighbour(Path(file), name)) is not None:  # imported later, inside a function
                files.add((neighbour.name, _sha256(neighbour)))
    return sorted(files), dict(sorted(libraries.items()))


@cache
def version(library: str) -> str:
    """The version of an installed library by the name it is imported by; Python's own for what has none."""
    if library == _OWN.name or library in sys.stdlib_module_names:
        return "" if library == _OWN.name else f"{sys.version_info.major}.{sys.version_info.minor}"
    said = getattr(sys.modules.get(library), "__version__", None)
    if isinstance(said, str):
        return str(said)
    from importlib import metadata

    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return ""


def _sha256_of(module: ModuleType, file: Path) -> str:
    if module not in _content:
        _content[module] = _sha256(file)
    return _content[module]


def _sha256(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return ""


def _imported(module: ModuleType, file: Path) -> Iterator[str]:
    """Absolute names of all that a file imports, anywhere in it; also of names that may be modules of a package."""
    if file.suffix != ".py":
        return
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    package = (getattr(module, "__package__", None) or "").split(".")
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*filter(None, base), *([node.module] if node.module else [])])
            if name:
                yield name
            yield from (f"{name}.{alias.name}" if name else alias.name for alias in node.names)


def _neighbour(file: Path, name: str) -> Path | None:
    place = file.parent.joinpath(*name.split("."))
    for found in (place.with_suffix(".py"), place / "__init__.py"):
        if found.is_file():
            return found
    return None
