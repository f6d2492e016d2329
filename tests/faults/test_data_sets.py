"""Data sets as they lie around: gaps, broken files, odd names."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from .conftest import Landscape

pytestmark = pytest.mark.slow  # every case starts a process of its own

STEPS = ("--model", "mlp", "--model-arg", "hidden=[4]", "--steps", "2", "--out", "runs", "--json")
DOMAINS = ("train", "--data", "domains:pictures", "--data-arg", "size=8", *STEPS)
IMAGES = ("train", "--data", "images:pictures", "--data-arg", "size=8", *STEPS)


def picture(path: Path, shade: int = 0, mode: str = "RGB", size: int = 8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (size, size), (shade % 256, 80, 200 - shade % 200))
    image.convert(mode).save(path)
    return path


def pictures(
    root: Path, domains: tuple[str, ...] = ("art", "photo"), classes: tuple[str, ...] = ("cat", "dog"), n: int = 4
) -> Path:
    """``domain/class/k.png``."""
    for i, domain in enumerate(domains):
        for j, name in enumerate(classes):
            for k in range(n):
                picture(root / "pictures" / domain / name / f"{k}.png", 40 * i + 90 * j + 7 * k)
    return root / "pictures"


def plain_pictures(root: Path, classes: tuple[str, ...] = ("cat", "dog"), n: int = 6) -> Path:
    """``class/k.png``."""
    for j, name in enumerate(classes):
        for k in range(n):
            picture(root / "pictures" / name / f"{k}.png", 90 * j + 7 * k)
    return root / "pictures"


@pytest.mark.case(23)
def test_a_class_missing_in_one_domain(landscape: Landscape, tmp_path: Path) -> None:
    root = pictures(tmp_path)
    for file in (root / "photo" / "dog").iterdir():
        file.unlink()
    outcome = landscape(*DOMAINS)
    assert outcome.code == 3
    assert "domain 'photo' has no image of class 'dog'" in outcome.error
    (root / "photo" / "dog").rmdir()
    assert landscape(*DOMAINS).code == 3
    assert not (tmp_path / "runs").exists()


@pytest.mark.case(24)
def test_an_empty_domain(landscape: Landscape, tmp_path: Path) -> None:
    root = pictures(tmp_path)
    (root / "sketch").mkdir()
    outcome = landscape(*DOMAINS)
    assert outcome.code == 3
    assert "sketch" in outcome.error


@pytest.mark.case(25)
def test_a_single_domain(landscape: Landscape, tmp_path: Path) -> None:
    pictures(tmp_path, domains=("art",))
    outcome = landscape(*DOMAINS, "--optimizer", "disam")
    assert outcome.code == 0, outcome.err
    assert "disam has no variance of domain losses here" in outcome.err
    left_out = landscape(*DOMAINS, "--leave-one-out")
    assert left_out.code == 2
    assert "no domains to leave out" in left_out.error


def zero_bytes(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    path.write_text("this is no picture")


def cut(path: Path) -> None:
    whole = picture(path, size=64).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def gigantic(path: Path) -> None:
    """A PNG header that claims 20,000 x 20,000 pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))


@pytest.mark.parametrize(
    ("name", "make", "said"),
    [
        pytest.param("3.png", zero_bytes, "cannot identify", marks=pytest.mark.case(26)),
        pytest.param("3.jpg", text, "cannot identify", marks=pytest.mark.case(26)),
        pytest.param("3.jpg", cut, "truncated", marks=pytest.mark.case(26)),
        pytest.param("3.png", gigantic, "too large", marks=pytest.mark.case(27)),
    ],
)
def test_images_that_cannot_be_read(name: str, make, said: str, landscape: Landscape, tmp_path: Path) -> None:
    root = plain_pictures(tmp_path)
    (root / "cat" / "3.png").unlink()
    make(root / "cat" / name)
    outcome = landscape(*IMAGES)
    assert outcome.code == 3
    assert said in outcome.error.lower()
    assert str(root / "cat" / name) in outcome.error
    skipped = landscape(*IMAGES, "--data-arg", "skip_corrupt=true")
    assert skipped.code == 0, skipped.err
    facts = json.loads((tmp_path / "runs/sgd-seed0/run.json").read_text())["ingredients"]
    assert '"skipped_images": 1' in json.dumps(facts)


@pytest.mark.case(28)
def test_all_kinds_of_pixels_become_rgb(landscape: Landscape, tmp_path: Path) -> None:
    root = plain_pictures(tmp_path)
    for k, (mode, kind) in enumerate({"L": "png", "RGBA": "png", "CMYK": "jpg", "P": "png", "1": "png"}.items()):
        picture(root / "dog" / f"more{k}.{kind}", 50, mode)
    Image.new("I;16", (8, 8), 30_000).save(root / "dog" / "deep.png")
    outcome = landscape(*IMAGES)
    assert outcome.code == 0, outcome.err


@pytest.mark.case(29)
def test_a_single_class(landscape: Landscape, tmp_path: Path) -> None:
    plain_pictures(tmp_path, classes=("cat",))
    outcome = landscape(*IMAGES)
    assert outcome.code == 3
    assert "a single class, 'cat'" in outcome.error


@pytest.mark.case(30)
def test_odd_names_stay_names(landscape: Landscape, tmp_path: Path) -> None:
    names = ("_hidden label", "<script>alert(1)<∕script>", "$\\frac{", "a ∕ .. ∕ b", "ü 漢\n字")
    root = pictures(tmp_path, domains=names, classes=("_cat $x$", "= dog"))
    before = {p.name for p in tmp_path.iterdir()}
    outcome = landscape(*DOMAINS)
    assert outcome.code == 0, outcome.err
    assert set(outcome.json["runs"][0]["final"]["domains"]) == set(names)
    looked = landscape("domains", "runs/sgd-seed0", "--json")
    assert set(looked.json["domains"]) == set(names)
    drawn = landscape("plot", "runs/sgd-seed0", "--kind", "domains", "--format", "svg", "--out", "drawn", "--json")
    paths = [Path(p) for p in drawn.json["outputs"]]
    assert all(tmp_path / "drawn" in p.parents for p in paths)
    shown = "".join(p.read_text() for p in paths if p.suffix == ".svg")
    assert "<script" not in shown
    assert {p.name for p in tmp_path.iterdir()} - {"state"} == {*before, "drawn", "runs"}, "a path escaped"
    assert root.is_dir()


@pytest.mark.case(31)
def test_fewer_examples_than_a_batch_or_a_piece(landscape: Landscape, tmp_path: Path) -> None:
    plain_pictures(tmp_path)
    outcome = landscape(*IMAGES, "--batch-size", "100")
    assert outcome.code == 2
    assert "batch_size=100 exceeds the 12 training examples" in outcome.error
    piece = landscape(*IMAGES, "--optimizer", "sam", "--m", "100")
    assert piece.code == 2
    assert "--m" in piece.error


@pytest.mark.case(32)
def test_pieces_that_do_not_divide_the_batch(landscape: Landscape, tmp_path: Path) -> None:
    """The last piece is smaller, and every example weighs the same."""
    plain_pictures(tmp_path)
    outcome = landscape(*IMAGES, "--optimizer", "sam", "--m", "5", "--batch-size", "full")
    assert outcome.code == 0, outcome.err
    found = landscape("sharpness", "runs/sam-seed0", "--m", "5", "--json").json["measures"]
    assert {v["m"]: v["n_blocks"] for v in found}[5] == 3


NETWORKS = """
import torch
def norm():
    return torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.BatchNorm1d(5), torch.nn.Linear(5, 3))
def data(n=17, high=3):
    x = torch.arange(4.0 * n).reshape(n, 4) / (4 * n)
    return {"train": {"a": (x, torch.arange(n) % high), "b": (x[:1], torch.zeros(1).long())}}
"""
OWN = ("train", "--data", "net.py:data", "--model", "net.py:norm", "--steps", "3", "--out", "runs", "--json")


@pytest.mark.case(33)
def test_labels_beyond_the_outputs(landscape: Landscape, tmp_path: Path) -> None:
    landscape.file("net.py", NETWORKS)
    outcome = landscape(*OWN, "--data-arg", "high=5")
    assert outcome.code == 3
    assert "label 4 is outside 0..2" in outcome.error
    assert not (tmp_path / "runs").exists()


@pytest.mark.case(34)
def test_batchnorm_is_not_trained_on_one_example(landscape: Landscape, tmp_path: Path) -> None:
    """Nor is a domain of one example a batch of its own: batches are drawn over all domains."""
    landscape.file("net.py", NETWORKS)
    assert landscape(*OWN, "--batch-size", "9", "--optimizer", "disam").code == 0
    outcome = landscape(*OWN, "--batch-size", "17", "--force")  # 18 examples: the second batch is one
    assert outcome.code == 2  # a matter of options, not of the data
    assert "batch normalisation has no statistics of 1 example" in outcome.error
    assert "--batch-size" in outcome.error


@pytest.mark.case(35)
def test_what_is_no_image_is_left_alone(landscape: Landscape, tmp_path: Path) -> None:
    root = plain_pictures(tmp_path)
    (root / "cat" / "loop").symlink_to(root / "cat")
    (root / "cat" / "nowhere.png.lnk").symlink_to(root / "nothing")
    for name in ("Thumbs.db", ".DS_Store", "._1.png", "notes.txt"):
        (root / "dog" / name).write_bytes(b"\0")
    (root / ".git").mkdir()
    outcome = landscape(*IMAGES)
    assert outcome.code == 0, outcome.err
    assert landscape("domains", "runs/sgd-seed0", "--json").json["domains"].popitem()[1]["n"] == 12
