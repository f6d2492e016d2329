"""Images from files: read as RGB, sized, scaled - or refused with the path of the file that is broken."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from ..base.errors import DataError, UsageError
from ..base.process_state import one_at_a_time
from ..base.progress import report

# Those of torchvision's ImageFolder, which DomainBed reads with.
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
NORMALIZATIONS = {
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
_CACHE_BYTES = 2 * 2**30


@dataclass(frozen=True)
class Reader:
    """How a file becomes a tensor ``(3, height, width)``.

    Attributes:
        size: Height and width, bilinear with antialiasing; None keeps the file's own.
        normalize: ``none`` (values in [0, 1]) or ``imagenet`` (less the mean, over the deviation of ImageNet).
    """

    size: tuple[int, int] | None = None
    normalize: str = "none"

    @classmethod
    def of(cls, size: int | Sequence[int] | None, normalize: str) -> Reader:
        """Check what a user gave.

        Raises:
            UsageError: If it is no size, or an unknown normalization.
        """
        sides = (size, size) if isinstance(size, int) else tuple(size or ())
        if size is not None and (len(sides) != 2 or not all(type(s) is int and s > 0 for s in sides)):
            raise UsageError(f"size={size!r}", "`data_arg=`", "expected a number of pixels, or [height, width]")
        if normalize not in NORMALIZATIONS:
            raise UsageError(f"normalize={normalize!r}", "`data_arg=`", f"expected {' or '.join(NORMALIZATIONS)}")
        return cls((sides[0], sides[1]) if size is not None else None, normalize)

    def __call__(self, path: Path) -> Tensor:
        """Read one file.

        Raises:
            DataError: If it is no whole image of a sane size; names the file.
        """
        pixels = _pixels(path, self.size).transpose(2, 0, 1)
        mean, deviation = (np.array(v, np.float32)[:, None, None] for v in NORMALIZATIONS[self.normalize])
        scaled = pixels.astype(np.float32) / 255
        return torch.from_numpy(scaled if self.normalize == "none" else (scaled - mean) / deviation)


def _pixels(path: Path, size: tuple[int, int] | None) -> Any:
    """The image as RGB, uint8, shape ``(height, width, 3)``."""
    from PIL import Image

    try:
        with one_at_a_time(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on odd metadata; what cannot be read raises
            with Image.open(path) as image:
                whole: Any = image
                if image.mode.startswith("I"):  # 16 bits: scaled, where convert() would clip
                    whole = Image.fromarray((np.clip(np.asarray(image), 0, 65535) // 257).astype(np.uint8))
                rgb = whole.convert("RGBA" if image.mode == "P" and "transparency" in image.info else "RGB")
                rgb = rgb.convert("RGB")
                if size is not None and rgb.size != size[::-1]:
                    rgb = rgb.resize(size[::-1], Image.Resampling.BILINEAR)
                return np.asarray(rgb)
    except Image.DecompressionBombError as error:
        raise DataError(f"the image is too large: {error}", str(path), "shrink it, or take it away") from error
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on broken files
        reason = str(error).replace(repr(str(path)), "").strip(" :'") or type(error).__name__
        raise DataError(
            f"the image cannot be read: {reason}", str(path), "replace it, or pass `data_arg='skip_corrupt=true'`"
        ) from error


class ImageFiles(Dataset[Any]):
    """Images read from their files each time they are asked for.

    Args:
        files: Path and class of each example.
        reader: How a file becomes a tensor.
        facts: What results shall say about the data.
    """

    def __init__(self, files: Sequence[tuple[Path, int]], reader: Reader, facts: Mapping[str, object]) -> None:
        self.files, self.reader, self.facts = list(files), reader, facts

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        path, label = self.files[row]
        return self.reader(path), label

    def part(self, rows: Any) -> ImageFiles:
        """Some of them."""
        return ImageFiles([self.files[r] for r in rows], self.reader, self.facts)


class CachedImages(TensorDataset):
    """Images read once into tensors; ``facts`` as in `ImageFiles`."""

    def __init__(self, images: Tensor, labels: Tensor, facts: Mapping[str, object]) -> None:
        super().__init__(images, labels)
        self.facts = facts

    def part(self, rows: object) -> CachedImages:
        """Some of them."""
        index = torch.from_numpy(rows)
        return CachedImages(self.tensors[0][index], self.tensors[1][index], self.facts)


def open_images(
    groups: Mapping[Any, Sequence[tuple[Path, int]]],
    reader: Reader,
    facts: dict[str, Any],
    *,
    cache: bool | None,
    skip_corrupt: bool,
) -> dict[Any, Dataset[Any]]:
    """Open groups of files, in memory where all of them fit into 2 GiB.

    Args:
        groups: Paths and classes, by whatever names the groups.
        reader: How a file becomes a tensor.
        facts: What results shall say; ``skipped_images`` (a count) and ``skipped`` (the first ten) are added.
        cache: Keep all tensors in memory (True), read each time (False), or decide by size (None).
        skip_corrupt: Leave broken files out, and count them, instead of refusing the data.

    Returns:
        A data set per group; groups of which nothing is left are missing.

    Raises:
        DataError: If a file cannot be read, or the images differ in size.
    """
    kept: dict[Any, list[tuple[Path, int]]] = {name: list(files) for name, files in groups.items()}
    total = sum(map(len, kept.values()))
    if cache is None:
        cache = total * _first(kept, reader).nbytes <= _CACHE_BYTES
    skipped: list[str] = []
    images: dict[Any, Tensor] = {}
    if cache or skip_corrupt:  # what cannot be read must be known before anything is counted
        done = 0
        for name, files in kept.items():
            stack: Tensor | None = None
            whole: list[tuple[Path, int]] = []
            for path, label in files:
                try:
                    image = reader(path)
                except DataError:
                    if not skip_corrupt:
                        raise
                    skipped.append(str(path))
                else:
                    if cache:
                        stack = image.new_empty((len(files), *image.shape)) if stack is None else stack
                        _same_size(stack[0], image, files[0][0], path)
                        stack[len(whole)] = image
                    whole.append((path, label))
                done += 1
                if done % 100 == 0 or done == total:
                    report("reading images", done, total)
            kept[name] = whole
            if stack is not None:
                images[name] = stack[: len(whole)]
    if skip_corrupt:
        facts.update(skipped_images=len(skipped), skipped=skipped[:10])
    if not cache:
        return {name: ImageFiles(files, reader, facts) for name, files in kept.items() if files}
    return {
        name: CachedImages(images[name], torch.tensor([label for _, label in kept[name]]), facts) for name in images
    }


def _first(groups: Mapping[object, Sequence[tuple[Path, int]]], reader: Reader) -> Tensor:
    """Some readable image, to know how much memory one takes."""
    for files in groups.values():
        for path, _ in files:
            try:
                return reader(path)
            except DataError:
                continue
    return torch.empty(0)


def _same_size(first: Tensor, other: Tensor, first_path: Path, path: Path) -> None:
    if first.shape != other.shape:
        sizes = " and ".join(f"{h}x{w}" for _, h, w in (first.shape, other.shape))
        raise DataError(
            f"images differ in size: {first_path.name} and {path.name} are {sizes}",
            str(path),
            "pass `data_arg='size=64'`",
        )
