"""Losses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .network import INPUTS, OPERATIONS, Operation, loss, wave

# -- losses -------------------------------------------------------------------------------------------------------


def _signs(target: Tensor) -> Tensor:
    return (target > 0).double() * 2 - 1


def _ctc(output: Tensor, target: Tensor) -> Tensor:
    """Four time steps over five symbols, two letters of which have to be said."""
    scores = output.reshape(len(output), 4, 5).permute(1, 0, 2).log_softmax(2)
    letters = torch.stack([target + 1, (target + 1) % 3 + 1], 1)
    lengths = torch.full((len(output),), 4), torch.full((len(output),), 2)
    return F.ctc_loss(scores, letters, *lengths)


loss("cross_entropy", F.cross_entropy)
loss("cross_entropy, smoothed", lambda o, t: F.cross_entropy(o, t, label_smoothing=0.1))
loss("cross_entropy, weighted", lambda o, t: F.cross_entropy(o, t, weight=wave(3).abs() + 0.1))
loss("cross_entropy, ignored", lambda o, t: F.cross_entropy(o, t, ignore_index=2))
loss("cross_entropy, soft targets", lambda o, t: F.cross_entropy(o, wave(len(t), 3).softmax(1)))
loss("nll_loss", lambda o, t: F.nll_loss(o.log_softmax(1), t))
loss("mse_loss", lambda o, t: F.mse_loss(o, wave(len(t), 3)))
loss("l1_loss", lambda o, t: F.l1_loss(o.exp(), wave(len(t), 3)))
loss("smooth_l1_loss", lambda o, t: F.smooth_l1_loss(o, wave(len(t), 3)))
loss("huber_loss", lambda o, t: F.huber_loss(o, wave(len(t), 3), delta=0.5))
loss("binary_cross_entropy", lambda o, t: F.binary_cross_entropy(o.sigmoid(), wave(len(t), 3).abs()))
loss("bce_with_logits", lambda o, t: F.binary_cross_entropy_with_logits(o, wave(len(t), 3).abs()))
loss("kl_div", lambda o, t: F.kl_div(o.log_softmax(1), wave(len(t), 3).softmax(1), reduction="batchmean"))
loss("poisson_nll_loss", lambda o, t: F.poisson_nll_loss(o, wave(len(t), 3).abs()))
loss("gaussian_nll_loss", lambda o, t: F.gaussian_nll_loss(o[:, :1], wave(len(t), 1), o[:, 1:2].exp()))
loss("hinge_embedding_loss", lambda o, t: F.hinge_embedding_loss(o.square().sum(1), _signs(t), margin=3.0))
loss("margin_ranking_loss", lambda o, t: F.margin_ranking_loss(o[:, 0].exp(), o[:, 1], _signs(t), margin=0.3))
loss("cosine_embedding_loss", lambda o, t: F.cosine_embedding_loss(o, wave(len(t), 3), _signs(t), margin=-0.9))
loss("triplet_margin_loss", lambda o, t: F.triplet_margin_loss(o, wave(len(t), 3), o.flip(1), margin=2.0))
loss("soft_margin_loss", lambda o, t: F.soft_margin_loss(o, _signs(t)[:, None].expand_as(o)))
for _p in (1, 2):
    loss(f"multi_margin_loss, p={_p}", lambda o, t, p=_p: F.multi_margin_loss(o.exp(), t, p=p, margin=0.7))
loss(
    "multilabel_margin_loss",
    lambda o, t: F.multilabel_margin_loss(o.exp(), torch.stack([t, (t + 1) % 3, torch.full_like(t, -1)], 1)),
)
loss("multilabel_soft_margin_loss", lambda o, t: F.multilabel_soft_margin_loss(o, wave(len(t), 3).abs().round()))
loss("ctc_loss", _ctc, 20)


class _Adaptive(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(INPUTS, 6), nn.AdaptiveLogSoftmaxWithLoss(6, 3, [1], div_value=2.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.head.log_prob(self.first(x))


OPERATIONS["AdaptiveLogSoftmaxWithLoss"] = Operation(
    _Adaptive, loss=lambda output, target: -output.gather(1, target[:, None])[:, 0]
)
