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
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from weakref import WeakKeyDictionary

# SHA-256 of each module's file, as it was when this process first asked. A file that is edited later is not the code
# that runs here; a process that starts after the edit sees the new one.
_content: WeakKeyDictionary[ModuleType, str] = WeakKeyDictionary()
_OWN = Path(__file__).resolve().parent.parent


def is_library(module: ModuleType | None) -> bool:
    """Whether a module is Python's, this package's or an installed library's, and not the user's own code."""
    file = getattr(module, "__file__", None)
    if module is None or file is not None:
        return module is None or _is_installed(str(file))
    top = module.__name__.partition(".")[0]
    if top != module.__name__ and top in sys.modules:
        return is_library(sys.modules[top])
    return top != "__main__" and top in sys.stdlib_module_names  # not typed at a prompt, nor made by code


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
    files, libraries = files_behind(module, sha256)
    return without_folders(files), libraries


def without_folders(files: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Name and SHA-256 of files, sorted."""
    return sorted({(Path(path).name, content) for path, content in files})


def files_behind(
    module: ModuleType | None, sha256: str | None = None
) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """The same as `sources`, with the whole paths of the files."""
    files: set[tuple[str, str]] = set()
    libraries: dict[str, str] = {}
    if module is not None and sha256 is not None:
        _content.setdefault(module, sha256)
    for name, here, file in _reached(module):
        if _of_library(here, file):
            top = name.partition(".")[0]
            libraries[top] = version(top)
        elif file is not None:  # else typed at a prompt or in a notebook: its functions are looked at one by one
            files.add((str(file.absolute()), _sha256(file) if here is None else _sha256_of(here, file)))
    return sorted(files), dict(sorted(libraries.items()))


def names_imported(module: ModuleType) -> set[str]:
    """The first words of all names that a module of the user's imports, or that its own modules import."""
    found: set[str] = set()
    for name, here, file in _reached(module):
        if file is not None and not _of_library(here, file):
            found |= {other.partition(".")[0] for other in _imported(_package(name, here, file), file)}
    return found


_Place = tuple[str, ModuleType | None, Path | None]  # name; the module, where it is loaded; its file, if it has one


def _reached(module: ModuleType | None) -> Iterator[_Place]:
    """A module and all that it imports, now or later, through the user's own files and not through libraries."""
    seen: set[str] = set()
    pending: list[_Place] = [(module.__name__, module, _file_of(module))] if module is not None else []
    while pending:
        name, here, file = pending.pop()
        if name in seen:
            continue
        seen.add(name)
        yield name, here, file
        if file is not None and not _of_library(here, file):
            for other in _imported(_package(name, here, file), file):
                pending += _modules_of(other, file)


def _of_library(module: ModuleType | None, file: Path | None) -> bool:
    return is_library(module) if module is not None else _is_installed(str(file))


def _package(name: str, module: ModuleType | None, file: Path) -> str:
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    return getattr(module, "__package__", None) or package


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


def _file_of(module: ModuleType) -> Path | None:
    file = getattr(module, "__file__", None)
    return None if file is None else Path(file)


def _imported(package: str, file: Path) -> Iterator[str]:
    """Absolute names of all that a file imports, anywhere in it; also of names that may be modules of a package."""
    if file.suffix != ".py":
        return
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    around = package.split(".")
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = around[: len(around) - node.level + 1] if node.level else []
            name = ".".join([*filter(None, base), *([node.module] if node.module else [])])
            yield from (f"{name}.{alias.name}" if name else alias.name for alias in node.names)


def _modules_of(name: str, near: Path) -> Iterator[_Place]:
    """A module and the packages around it, as they are loaded, or as they would be by an import that comes later.

    The answer is the same before and after that import. Nothing is imported.
    """
    parts = name.split(".")
    path: list[str] | None = [str(near.parent), *sys.path]
    for end in range(1, len(parts) + 1):
        whole = ".".join(parts[:end])
        module = sys.modules.get(whole)
        if module is not None:
            yield whole, module, _file_of(module)
            path = list(getattr(module, "__path__", ()))
            if is_library(module):
                return
        else:
            spec = PathFinder.find_spec(whole, path) if path else None
            if spec is None:
                return
            has_file = spec.has_location and spec.origin is not None
            if has_file or spec.submodule_search_locations is None:
                yield whole, None, Path(str(spec.origin))
                if _is_installed(str(spec.origin)):
                    return
            path = list(spec.submodule_search_locations or [])
