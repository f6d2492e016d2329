"""Folders of images: order, split, classes, and every broken thing named by its path."""

from __future__ import annotations

import hashlib
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from landscape.base.errors import DataError, UsageError
from landscape.base.plugins import resolve
from landscape.data.folders import class_folders, domain_folders, domainbed_split
from landscape.data.splits import Splits, open_data
from landscape.models.build import facts_of
from landscape.problem.problem import Problem
from landscape.registry import DATA


def picture(path: Path, colour: tuple[int, int, int] = (0, 0, 0), size: tuple[int, int] = (6, 4)) -> None:
    """A PNG of one colour, width x height."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two domains, two classes; the red value of image k of a class is k, green the class, blue the domain."""
    for d, domain in enumerate(("b art", "a$<photo>")):
        for c, name in enumerate(("_dog", "cät")):
            for k in range(10 + d):
                picture(tmp_path / "set" / domain / name / f"{k:02}.png", (k, c, d))
    return tmp_path / "set"


def colours(dataset) -> list[tuple[int, ...]]:
    return [tuple((image[:, 0, 0] * 255).round().int().tolist()) for image, _ in dataset]


def test_domains_classes_and_files_are_sorted_and_nothing_is_lost(tree: Path):
    splits = domain_folders(str(tree))
    assert list(splits["train"]) == list(splits["val"]) == ["a$<photo>", "b art"]
    for blue, name in ((1, "a$<photo>"), (0, "b art")):
        train, val = splits["train"][name], splits["val"][name]
        n = 20 + 2 * blue
        assert (len(train), len(val)) == (n - int(0.2 * n), int(0.2 * n))
        for part in (train, val):
            seen = colours(part)
            assert seen == sorted(seen, key=lambda c: (c[1], c[0]))
            assert [c[1] for c in seen] == [int(label) for _, label in part]
        assert sorted(colours(train) + colours(val)) == sorted((k, c, blue) for c in (0, 1) for k in range(10 + blue))
    assert Splits(splits)["train"].facts["classes"] == ["_dog", "cät"]


@pytest.mark.parametrize(("n", "seed", "domain"), [(10, 0, 0), (2048, 0, 3), (77, 5, 1)])
def test_the_split_is_domainbeds(n: int, seed: int, domain: int):
    """Against the Mersenne Twister of the standard library instead of NumPy's: the same Fisher-Yates shuffle."""
    state = np.random.RandomState(
        int.from_bytes(hashlib.md5(f"({seed}, {domain})".encode()).digest(), "big") % 2**31
    ).get_state()
    twister = random.Random()
    twister.setstate((3, (*map(int, state[1]), int(state[2])), None))
    order = list(range(n))
    for i in reversed(range(1, n)):
        mask = (1 << i.bit_length()) - 1
        while (j := twister.getrandbits(32) & mask) > i:
            pass
        order[i], order[j] = order[j], order[i]
    kept, out = domainbed_split(n, 0.2, seed, domain)
    assert sorted(order[: int(0.2 * n)]) == out.tolist()
    assert sorted(order[int(0.2 * n) :]) == kept.tolist()


@pytest.mark.parametrize("reader", [domain_folders, class_folders])
def test_cached_and_streamed_images_are_the_same(tree: Path, reader):
    folder = tree if reader is domain_folders else tree / "b art"
    options = {"size": [3, 5], "normalize": "imagenet", "holdout_fraction": 0.5}
    cached, streamed = (Splits(reader(str(folder), cache=c, **options)) for c in (True, False))
    assert type(cached["train"].store) is not type(streamed["train"].store)
    for split in ("train", "val"):
        a, b = (s[split].batch(np.arange(len(s[split]))) for s in (cached, streamed))
        assert a.inputs.shape[1:] == (3, 3, 5)
        assert torch.equal(a.inputs, b.inputs)
        assert torch.equal(a.targets, b.targets)
        assert cached[split].fingerprint() == streamed[split].fingerprint()
    red = (cached["train"].batch(np.arange(1)).inputs[0, 0] * 0.229 + 0.485) * 255
    assert torch.allclose(red, red.round(), atol=1e-3)


def test_class_folders_with_and_without_splits(tree: Path):
    whole = class_folders(str(tree / "b art"))
    assert {k: len(v) for k, v in whole.items()} == {"train": 20}
    halves = class_folders(str(tree / "b art"), holdout_fraction=0.25)
    assert {k: len(v) for k, v in halves.items()} == {"train": 15, "val": 5}
    (tree / "b art").rename(tree / "train")
    (tree / "a$<photo>").rename(tree / "test")
    own = class_folders(str(tree))
    assert {k: len(v) for k, v in own.items()} == {"train": 20, "test": 22}
    with pytest.raises(UsageError, match="leave it out: the folder has train, test"):
        class_folders(str(tree), holdout_fraction=0.1)


def test_hidden_files_other_files_and_links_in_circles_are_ignored(tree: Path):
    before = {k: [len(d) for d in v.values()] for k, v in domain_folders(str(tree)).items()}
    (tree / ".git" / "x").mkdir(parents=True)
    (tree / "README").write_text("text")
    for name in ("Thumbs.db", "._00.png", ".DS_Store", "notes.txt"):
        (tree / "b art" / "_dog" / name).write_bytes(b"nothing")
    (tree / "b art" / "_dog" / "again").symlink_to(tree / "b art" / "_dog", target_is_directory=True)
    assert {k: [len(d) for d in v.values()] for k, v in domain_folders(str(tree)).items()} == before


def test_files_below_class_folders_come_in_imagefolders_order(tmp_path: Path):
    for i, name in enumerate(("z.png", "a/2.png", "a/10.png", "b.png", "a.d/1.png")):
        picture(tmp_path / "x" / name, (i, 0, 0))
        picture(tmp_path / "y" / name)
    read = class_folders(str(tmp_path))["train"]
    assert [c[0] for c in colours(read)[:5]] == [3, 0, 2, 1, 4]


# -- what is refused ------------------------------------------------------------------------------------------------


def refusal(folder: Path, reader=domain_folders, **options) -> str:
    with pytest.raises(DataError) as caught:
        Splits(reader(str(folder), **options))["train"].in_memory()
    assert caught.value.exit_code == 3
    return str(caught.value)


def test_a_class_that_a_domain_lacks_is_named(tree: Path):
    for file in (tree / "b art" / "cät").iterdir():
        file.unlink()
    assert "domain 'b art' has no image of class 'cät'" in refusal(tree)
    (tree / "b art" / "cät").rmdir()
    assert "domain 'b art' has no image of class 'cät'" in refusal(tree)


def test_empty_domains_single_classes_and_missing_folders(tree: Path, tmp_path: Path):
    (tree / "c").mkdir()
    assert "domain 'c' has no class folder" in refusal(tree)
    (tree / "c" / "_dog").mkdir()
    assert "domain 'c' holds no image" in refusal(tree)
    picture(tmp_path / "one" / "photo" / "dog" / "1.png")
    assert "a single class, 'dog'" in refusal(tmp_path / "one")
    (tmp_path / "none").mkdir()
    assert "no domain folder" in refusal(tmp_path / "none")
    assert "no class folder with images" in refusal(tmp_path / "none", class_folders)
    with pytest.raises(UsageError, match=r"no such folder \(.*/nowhere\)"):
        domain_folders(str(tmp_path / "nowhere"))


def test_domains_do_not_pass_for_classes(tree: Path):
    assert f"use domains:{tree}" in refusal(tree, class_folders)


def test_a_domain_with_one_example_stands_in_train_alone(tree: Path):
    picture(tree / "c" / "_dog" / "1.png")
    picture(tree / "c" / "cät" / "1.png")
    splits = Splits(domain_folders(str(tree)))
    assert splits["train"].of_domains(["c"]).domain_names == splits["val"].domain_names
    assert len(splits["train"].of_domains(["c"])) == 2
    assert len(splits["val"].of_domains(["c"])) == 0


def broken(path: Path, how: str) -> None:
    if how == "text":
        path.write_text("no image")
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "truncated":
        Image.effect_noise((64, 64), 90).convert("RGB").save(path, format="JPEG")
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        Image.new("1", (20_000, 20_000)).save(path, format="PNG")


@pytest.mark.parametrize("how", ["text", "empty", "truncated", "too large"])
@pytest.mark.parametrize("cache", [True, False])
def test_broken_images_are_refused_by_path_or_skipped_and_counted(tree: Path, how: str, cache: bool):
    bad = tree / "b art" / "_dog" / "04.png"
    broken(bad, how)
    said = refusal(tree, cache=cache, size=4, holdout_fraction=0)
    assert f"({bad})" in said
    assert "too large" in said if how == "too large" else "cannot be read" in said
    splits = Splits(domain_folders(str(tree), cache=cache, size=4, skip_corrupt=True))
    facts = splits["train"].facts
    assert (facts["skipped_images"], facts["skipped"]) == (1, [str(bad)])
    assert sum(len(s) for s in splits.values()) == 41
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))
    assert Problem(model, splits["train"]).describe()["data_facts"]["skipped_images"] == 1


def test_a_domain_of_broken_images_is_refused_even_when_skipping(tree: Path):
    for file in (tree / "b art").rglob("*.png"):
        file.write_bytes(b"")
    assert "no image of domain 'b art' can be read" in refusal(tree, skip_corrupt=True)


def test_images_of_unequal_size_need_a_size(tree: Path):
    picture(tree / "b art" / "_dog" / "03.png", size=(9, 4))
    assert "images differ in size: 00.png and 03.png are 4x6 and 4x9" in refusal(tree, cache=True)
    assert "equal shapes" in refusal(tree, cache=False, holdout_fraction=0)
    assert Splits(domain_folders(str(tree), size=4))["train"].batch(np.arange(5)).inputs.shape == (5, 3, 4, 4)


@pytest.mark.parametrize(
    "options",
    [{"size": 0}, {"size": [4]}, {"size": "big"}, {"normalize": "cifar"}, {"holdout_fraction": 1.0}],
)
def test_impossible_options(tree: Path, options: dict):
    with pytest.raises(UsageError, match=f"{next(iter(options))}=.*`data_arg=`"):
        domain_folders(str(tree), **options)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "I;16", "1", "I"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str):
    """White stays white and black black, 16 bits included, where converting alone would clip."""
    for name in ("a", "b"):
        for value in (0, 1):
            top = {"I;16": 65535, "I": 65535, "1": 1}.get(mode, 255)
            path = tmp_path / name / f"{value}.{'tif' if mode in ('CMYK', 'I') else 'png'}"
            path.parent.mkdir(exist_ok=True)
            if mode in ("I;16", "I"):
                kind = np.uint16 if mode == "I;16" else np.int32
                image = Image.fromarray(np.full((4, 4), value * top, kind))
            elif mode in ("L", "1"):
                image = Image.new(mode, (4, 4), value * top)
            else:
                image = Image.new("RGB", (4, 4), (value * 255,) * 3).convert(mode)
            image.save(path)
    images = class_folders(str(tmp_path))["train"].tensors[0]
    assert images.shape == (4, 3, 4, 4)
    assert images[0].max() == 0
    assert images[1].min() == 1


# -- by name --------------------------------------------------------------------------------------------------------


def test_named_on_the_command_line_and_found_again_from_elsewhere(tree: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tree.parent)
    plugin = resolve("domains:set", DATA)
    assert plugin.record == {"name": f"domains:{tree}"}
    os.chdir("/")
    splits = open_data(resolve(plugin.record["name"], DATA, from_record=True), {"size": 4})
    assert splits.domains == ("a$<photo>", "b art")
    assert facts_of(splits["train"]) == {"input_shape": [3, 4, 4], "in_channels": 3, "classes": 2}
    with pytest.raises(UsageError, match=r"unknown argument 'sise' \(domains:/.*did you mean 'size'"):
        open_data(plugin, {"sise": 4})


def test_classes_count_even_when_a_split_lacks_them(tree: Path):
    """The number of outputs is that of the class folders, not of the labels that happen to be in a split."""
    for k in range(1, 10):
        (tree / "b art" / "cät" / f"{k:02}.png").unlink()
    for seed in range(100):
        train = Splits(class_folders(str(tree / "b art"), holdout_fraction=0.2, split_seed=seed))["train"]
        assert facts_of(train)["classes"] == 2
        if train.classes().max() == 0:
            return
    pytest.fail("the only cat was never held out")
