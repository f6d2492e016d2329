"""Augmentation: what may happen to an image, and that it is a function of the seed."""

from __future__ import annotations

import torch

from landscape.data.examples import Batch
from landscape.training.augment import augment


def images(n: int = 64, side: int = 16) -> Batch:
    x = torch.arange(1, n * side * side + 1, dtype=torch.float64).view(n, 1, side, side)
    return Batch(x, torch.arange(n) % 5, torch.zeros(n, dtype=torch.long))


def test_flip_and_crop_give_a_shifted_possibly_mirrored_image():
    batch = images()
    made = augment(batch, ("flip-crop",), seed=3).batch.inputs
    shifts, flips = set(), set()
    for before, after in zip(batch.inputs[:, 0], made[:, 0], strict=True):
        padded = [torch.nn.functional.pad(im, (2, 2, 2, 2)) for im in (before, before.flip(1))]
        found = [
            (dy, dx, bool(mirror))
            for mirror, im in enumerate(padded)
            for dy in range(5)
            for dx in range(5)
            if torch.equal(im[dy : dy + 16, dx : dx + 16], after)
        ]
        assert len(found) == 1
        shifts.add(found[0][:2])
        flips.add(found[0][2])
    assert len(shifts) > 15
    assert flips == {True, False}


def test_cutout_zeroes_at_most_a_square_of_half_the_side():
    batch = images()
    made = augment(batch, ("cutout",), seed=3).batch.inputs
    holes = made == 0
    assert torch.equal(made[~holes], batch.inputs[~holes])
    sizes = holes.sum((1, 2, 3))
    assert int(sizes.max()) == 64
    assert 16 <= int(sizes.min()) < 64  # cut by the border


def test_mixup_blends_inputs_and_keeps_both_targets():
    batch = images()
    made = augment(batch, ("mixup",), seed=3)
    partner = [int((batch.inputs == 0).sum())]
    assert 0 < made.share < 1
    for i in range(8):
        rest = (made.batch.inputs[i] - made.share * batch.inputs[i]) / (1 - made.share)
        (j,) = [j for j in range(64) if torch.allclose(rest, batch.inputs[j], rtol=1e-9)]
        assert int(made.partner[i]) == int(batch.targets[j])
        partner.append(j)
    assert torch.equal(made.batch.targets, batch.targets)
    assert len(set(partner)) > 5


def test_the_same_seed_gives_the_same_images():
    names = ("flip-crop", "cutout", "mixup")
    a, b, c = (augment(images(), names, seed=s) for s in (1, 1, 2))
    assert torch.equal(a.batch.inputs, b.batch.inputs)
    assert torch.equal(a.partner, b.partner)
    assert not torch.equal(a.batch.inputs, c.batch.inputs)
