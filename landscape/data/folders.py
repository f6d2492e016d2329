"""Folders of images: ``domains:FOLDER`` (domain/class/image) and ``images:FOLDER`` (class/image).

The order of domains, classes and files, and the split of each domain, are those of DomainBed
(Gulrajani & Lopez-Paz, arXiv 2007.01434; facebookresearch/DomainBed), so that runs see the same examples.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..base.errors import DataError, UsageError
from .images import EXTENSIONS, Reader, open_images

Files = list[tuple[Path, int]]
SPLITS = ("train", "val", "test")


def domain_folders(
    folder: str,
    *,
    size: int | Sequence[int] | None = None,
    normalize: str = "none",
    holdout_fraction: float = 0.2,
    split_seed: int = 0,
    cache: bool | None = None,
    skip_corrupt: bool = False,
) -> dict[str, Any]:
    """Read domain/class/image.

    Each domain is split by DomainBed's rule: its "in" part is ``"train"``, its "out" part ``"val"`` (what
    training-domain validation selects on). ``size=224 normalize=imagenet`` gives DomainBed's test-time images.

    Args:
        folder: Where the domain folders are.
        size: Pixels, or ``[height, width]``; None keeps the files' own size.
        normalize: ``none`` (values in [0, 1]) or ``imagenet``.
        holdout_fraction: Share of each domain that goes to ``"val"``; 0 keeps all in ``"train"``.
        split_seed: DomainBed's ``trial_seed``.
        cache: Keep the images in memory (true), read them each time (false); default: by size.
        skip_corrupt: Leave broken images out; their number stands in every result.

    Returns:
        Splits of domains, sorted by name, of images ``(n, 3, height, width)`` and classes; class indices are
        those of the sorted class names.

    Raises:
        UsageError: If there is no such folder, or an option is out of range.
        DataError: If a domain is empty or lacks a class, there is only one class, or an image is broken.
    """
    root = _folder(folder)
    _check_fraction(holdout_fraction)
    reader = Reader.of(size, normalize)
    domains = _subfolders(root)
    if not domains:
        raise DataError("there is no domain folder", str(root), "expected domain/class/image")
    found = {name: _classes(root / name) for name in domains}
    for name, classes in found.items():
        if not classes:
            raise DataError(f"domain {name!r} has no class folder", str(root / name), "expected domain/class/image")
        if not any(classes.values()):
            raise DataError(f"domain {name!r} holds no image", str(root / name), "add images, or take it away")
    names = _common_classes(found, "domain", root)
    facts = {"folder": str(root), "classes": names, "size": reader.size, "normalize": normalize}
    whole = open_images(
        {name: _labelled(classes, names) for name, classes in found.items()},
        reader,
        facts,
        cache=cache,
        skip_corrupt=skip_corrupt,
    )
    return _split(whole, domains, root, holdout_fraction, split_seed)


def class_folders(
    folder: str,
    *,
    size: int | Sequence[int] | None = None,
    normalize: str = "none",
    holdout_fraction: float = 0.0,
    split_seed: int = 0,
    cache: bool | None = None,
    skip_corrupt: bool = False,
) -> dict[str, object]:
    """Read class/image, or train/class/image with val/ and test/ beside it.

    Args:
        folder: Where the class folders, or ``train``, ``val`` and ``test``, are.
        size: Pixels, or ``[height, width]``; None keeps the files' own size.
        normalize: ``none`` (values in [0, 1]) or ``imagenet``.
        holdout_fraction: Share that goes to ``"val"`` where the folder has no splits of its own.
        split_seed: Seed of that split.
        cache: Keep the images in memory (true), read them each time (false); default: by size.
        skip_corrupt: Leave broken images out; their number stands in every result.

    Returns:
        Splits of images ``(n, 3, height, width)`` and classes; class indices are those of the sorted names.

    Raises:
        UsageError: If there is no such folder, or an option is out of range.
        DataError: If a class is empty or missing in a split, there is only one class, or an image is broken.
    """
    root = _folder(folder)
    _check_fraction(holdout_fraction)
    reader = Reader.of(size, normalize)
    own = [s for s in SPLITS if (root / s).is_dir()] if (root / "train").is_dir() else []
    if own and holdout_fraction:
        raise UsageError(
            f"holdout_fraction={holdout_fraction}", "`data_arg=`", f"leave it out: the folder has {', '.join(own)}"
        )
    found = {s: _classes(root / s) for s in own} if own else {"train": _classes(root)}
    if not own:
        _refuse_domains(root)
    for split, classes in found.items():
        if not any(classes.values()):
            where = root / split if own else root
            raise DataError("there is no class folder with images", str(where), "expected class/image")
    names = _common_classes(found, "split", root)
    facts = {"folder": str(root), "classes": names, "size": reader.size, "normalize": normalize}
    files = {split: _labelled(classes, names) for split, classes in found.items()}
    opened: dict[Any, Any] = open_images(files, reader, facts, cache=cache, skip_corrupt=skip_corrupt)
    missing = [s for s in files if s not in opened]
    if missing:
        raise DataError(f"no image of {missing[0]!r} can be read", str(root), "replace them")
    if own:
        return opened
    parts = _split({"images": opened["train"]}, ["images"], root, holdout_fraction, split_seed)
    return {split: part["images"] for split, part in parts.items()}


def domainbed_split(n: int, fraction: float, trial_seed: int, domain: int) -> tuple[Any, Any]:
    """DomainBed's split of the ``n`` examples of the domain with index ``domain``.

    A shuffle of 0..n-1 by NumPy's legacy generator, seeded with the MD5 of the text ``(trial_seed, domain)``
    modulo 2**31; its first ``int(n * fraction)`` are the "out" part (scripts/train.py, lib/misc.py).

    Returns:
        Sorted positions of the "in" part and of the "out" part.
    """
    digest = hashlib.md5(str((trial_seed, domain)).encode(), usedforsecurity=False).hexdigest()
    keys = list(range(n))
    np.random.RandomState(int(digest, 16) % 2**31).shuffle(keys)
    out = int(n * fraction)
    return np.sort(keys[out:]), np.sort(np.array(keys[:out], dtype=np.int64))


# -- what a folder holds ------------------------------------------------------------------------------------------


def _folder(name: str) -> Path:
    root = Path(name).expanduser().absolute()
    if not root.is_dir():
        raise UsageError("there is no such folder", str(root), "check `data=`")
    return root


def _check_fraction(fraction: float) -> None:
    if not 0 <= fraction < 1:
        raise UsageError(f"holdout_fraction={fraction}", "`data_arg=`", "expected a number from 0 to below 1")


def _subfolders(folder: Path) -> list[str]:
    return sorted(n for n in os.listdir(folder) if not n.startswith(".") and (folder / n).is_dir())


def _classes(folder: Path) -> dict[str, list[Path]]:
    """Image files by class folder, both sorted; hidden and foreign files are no images."""
    return {name: _images(folder / name) for name in _subfolders(folder)}


def _images(folder: Path) -> list[Path]:
    """Image files at any depth, in the order of torchvision's ImageFolder; linked circles are read once."""
    found: list[tuple[str, list[str]]] = []
    seen: set[str] = set()
    for place, below, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        below[:] = sorted(b for b in below if not b.startswith("."))
        found.append((place, sorted(n for n in names if not n.startswith(".") and n.lower().endswith(EXTENSIONS))))
    return [Path(place) / name for place, names in sorted(found) for name in names]


def _common_classes(found: Mapping[str, Mapping[str, list[Path]]], part: str, root: Path) -> list[str]:
    """The sorted union of class names; a class without an image somewhere would shift no index here, but is refused.

    Raises:
        DataError: If a part lacks a class that another has, or there is only one class.
    """
    names = sorted({c for classes in found.values() for c in classes})
    lacking = [(p, c) for p, classes in found.items() for c in names if not classes.get(c)]
    if lacking:
        shown = "; ".join(f"{part} {p!r} has no image of class {c!r}" for p, c in lacking[:10])
        raise DataError(
            shown + ("; ..." if len(lacking) > 10 else ""),
            str(root),
            f"give every {part} every class, or take it out",
        )
    if len(names) < 2:
        raise DataError(f"there is a single class, {names[0]!r}", str(root), "classification needs two or more")
    return names


def _labelled(classes: Mapping[str, list[Path]], names: list[str]) -> Files:
    return [(path, names.index(name)) for name in sorted(classes) for path in classes[name]]


def _refuse_domains(root: Path) -> None:
    """Refuse domain/class/image where class/image is expected: the domains would pass for classes."""
    names = _subfolders(root)
    inner = [_subfolders(root / name) for name in names]
    alike = len(inner) > 1 and bool(inner[0]) and all(i == inner[0] for i in inner)
    direct = any(f.lower().endswith(EXTENSIONS) for name in names for f in os.listdir(root / name))
    if alike and not direct:
        raise DataError("these look like domains, each with class folders", str(root), f"use domains:{root}")


def _split(
    whole: Mapping[str, Any], domains: Sequence[str], root: Path, fraction: float, seed: int
) -> dict[str, dict[str, object]]:
    """Split every domain; a ``"val"`` part without an example is left out."""
    splits: dict[str, dict[str, Any]] = {"train": {}, "val": {}}
    for i, name in enumerate(domains):
        if name not in whole:
            raise DataError(f"no image of domain {name!r} can be read", str(root / name), "replace them")
        for split, rows in zip(splits, domainbed_split(len(whole[name]), fraction, seed, i), strict=True):
            if len(rows):
                splits[split][name] = whole[name].part(rows)
    return {split: parts for split, parts in splits.items() if parts}
