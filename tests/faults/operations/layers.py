"""Convolutions, pools, norms, resampling and reparametrized weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from .network import add, layer

# -- convolutions, pools, norms, resampling -------------------------------------------------------------------------

layer("Conv1d", lambda: nn.Conv1d(2, 3, 2), 2, 5)
layer("Conv2d", lambda: nn.Conv2d(2, 3, 2), 2, 4, 4)
layer("Conv2d, stride, padding, dilation", lambda: nn.Conv2d(2, 2, 2, 2, 1, 2), 2, 4, 4)
layer("Conv2d, groups", lambda: nn.Conv2d(4, 4, 2, groups=2), 4, 3, 3)
layer("Conv2d, depthwise", lambda: nn.Conv2d(4, 4, 2, groups=4), 4, 3, 3)
layer("Conv2d, circular", lambda: nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), 2, 3, 3)
layer("Conv2d, channels_last", lambda: nn.Conv2d(2, 3, 2).to(memory_format=torch.channels_last), 2, 4, 4)
layer("Conv3d", lambda: nn.Conv3d(1, 2, 2), 1, 3, 3, 3)
layer("ConvTranspose1d", lambda: nn.ConvTranspose1d(2, 2, 2, 2), 2, 3)
layer("ConvTranspose2d", lambda: nn.ConvTranspose2d(2, 2, 2, 2), 2, 2, 2)
layer("ConvTranspose3d", lambda: nn.ConvTranspose3d(1, 2, 2), 1, 2, 2, 2)
layer("Unfold", lambda: nn.Unfold(2), 2, 3, 3)
layer("Fold", lambda: nn.Fold((3, 3), 2), 4, 4)
for _name, _make, _shape in (
    ("AvgPool1d", lambda: nn.AvgPool1d(2), (2, 6)),
    ("AvgPool2d", lambda: nn.AvgPool2d(2), (2, 4, 4)),
    ("AvgPool3d", lambda: nn.AvgPool3d(2), (1, 2, 4, 4)),
    ("MaxPool1d", lambda: nn.MaxPool1d(2), (2, 6)),
    ("MaxPool2d", lambda: nn.MaxPool2d(2), (2, 4, 4)),
    ("MaxPool3d", lambda: nn.MaxPool3d(2), (1, 2, 4, 4)),
    ("LPPool2d", lambda: nn.LPPool2d(2, 2), (2, 4, 4)),
    ("AdaptiveAvgPool2d", lambda: nn.AdaptiveAvgPool2d(2), (2, 3, 3)),
    ("AdaptiveAvgPool3d", lambda: nn.AdaptiveAvgPool3d(2), (1, 3, 3, 3)),
    ("AdaptiveMaxPool1d", lambda: nn.AdaptiveMaxPool1d(2), (2, 5)),
    ("AdaptiveMaxPool2d", lambda: nn.AdaptiveMaxPool2d(2), (2, 3, 3)),
    ("AdaptiveMaxPool3d", lambda: nn.AdaptiveMaxPool3d(2), (1, 3, 3, 3)),
):
    layer(_name, lambda make=_make: nn.Sequential(make(), nn.Tanh()), *_shape)
add("max_unpool2d", lambda x: F.max_unpool2d(*F.max_pool2d(x.square(), 2, return_indices=True), 2), 1, 4, 4)
layer("BatchNorm1d, eval", lambda: nn.BatchNorm1d(6))
layer("BatchNorm2d, eval", lambda: nn.BatchNorm2d(2), 2, 3, 3)
layer("BatchNorm3d, eval", lambda: nn.BatchNorm3d(2), 2, 2, 2, 2)
layer("BatchNorm1d without statistics", lambda: nn.BatchNorm1d(6, track_running_stats=False))
layer("LayerNorm", lambda: nn.LayerNorm(6))
layer("RMSNorm", lambda: nn.RMSNorm(6))
layer("GroupNorm", lambda: nn.GroupNorm(2, 4), 4, 3)
layer("InstanceNorm1d", lambda: nn.InstanceNorm1d(2, affine=True), 2, 4)
layer("InstanceNorm2d", lambda: nn.InstanceNorm2d(2), 2, 3, 3)
layer("InstanceNorm2d with statistics", lambda: nn.InstanceNorm2d(2, track_running_stats=True), 2, 3, 3)
layer("LocalResponseNorm", lambda: nn.LocalResponseNorm(2), 4, 3)
layer("CrossMapLRN2d", lambda: nn.CrossMapLRN2d(2), 4, 2, 2)
for _name in ["nearest", "nearest-exact", "bilinear", "bicubic", "area"]:
    add(f"interpolate, {_name}", lambda x, how=_name: F.interpolate(x.square(), scale_factor=2, mode=how), 1, 3, 3)
add("interpolate, linear", lambda x: F.interpolate(x.square(), scale_factor=2, mode="linear"), 2, 4)
add("interpolate, trilinear", lambda x: F.interpolate(x.square(), scale_factor=2, mode="trilinear"), 1, 2, 2, 2)
add("interpolate, antialiased", lambda x: F.interpolate(x.square(), size=2, mode="bilinear", antialias=True), 1, 4, 4)


def _sampled(mode: str, padding: str = "zeros") -> Callable[[Tensor], Tensor]:
    def sample(x: Tensor) -> Tensor:
        return F.grid_sample(
            x[:, :1].exp(), 0.8 * torch.tanh(x[:, 1:]).permute(0, 2, 3, 1), mode, padding, align_corners=False
        )

    return sample


for _name in ("bilinear", "nearest", "bicubic"):
    add(f"grid_sample, {_name}", _sampled(_name), 3, 3, 3)
add("grid_sample, reflection", _sampled("bilinear", "reflection"), 3, 3, 3)
add("affine_grid", lambda x: F.affine_grid(x, [len(x), 1, 2, 2], align_corners=False).square(), 2, 3)

# -- reparametrized weights -----------------------------------------------------------------------------------------


def _old(function: Callable[..., nn.Module], *arguments: Any) -> nn.Module:
    return function(nn.Linear(6, 5), *arguments)


layer("weight_norm", lambda: parametrizations.weight_norm(nn.Linear(6, 5)))
layer("weight_norm over all", lambda: parametrizations.weight_norm(nn.Linear(6, 5), dim=None))
layer("weight_norm of a convolution", lambda: parametrizations.weight_norm(nn.Conv1d(2, 3, 2)), 2, 4)
layer("weight_norm, old form", lambda: _old(nn.utils.weight_norm))
layer("spectral_norm", lambda: parametrizations.spectral_norm(nn.Linear(6, 5)))
layer("spectral_norm, old form", lambda: _old(nn.utils.spectral_norm))
for _name in ("matrix_exp", "cayley", "householder"):
    layer(f"orthogonal, {_name}", lambda k=_name: parametrizations.orthogonal(nn.Linear(6, 6), orthogonal_map=k))
layer("pruned weights", lambda: prune.l1_unstructured(nn.Linear(6, 5), "weight", 0.4))
