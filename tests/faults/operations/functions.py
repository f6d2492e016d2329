"""Functions of each number, reductions, orders, indexing and shapes."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from .network import add, layer, positive, unit

# -- functions of each number ---------------------------------------------------------------------------------------

for _name in [
    "relu",
    "relu6",
    "leaky_relu",
    "elu",
    "celu",
    "selu",
    "gelu",
    "silu",
    "mish",
    "softplus",
    "softsign",
    "softshrink",
    "hardshrink",
    "hardtanh",
    "hardswish",
    "hardsigmoid",
    "tanhshrink",
    "logsigmoid",
    "sigmoid",
    "tanh",
    "rrelu",
]:
    add(_name, getattr(F, _name))
add("gelu, tanh form", lambda x: F.gelu(x, approximate="tanh"))
add("threshold", lambda x: F.threshold(x, 0.1, 0.05))
add("glu", lambda x: F.glu(x, 1))
layer("PReLU", lambda: nn.PReLU(6))
layer("ReLU in place", lambda: nn.Sequential(nn.Linear(6, 6), nn.ReLU(inplace=True)))
layer("hardsigmoid in place", lambda: nn.Sequential(nn.Linear(6, 6), nn.Hardsigmoid(inplace=True)))
layer("Dropout, eval", lambda: nn.Dropout(0.5))
layer("RReLU, eval", nn.RReLU)

for _name in [
    "exp",
    "exp2",
    "expm1",
    "sin",
    "cos",
    "tan",
    "atan",
    "sinh",
    "cosh",
    "asinh",
    "erf",
    "erfc",
    "square",
    "abs",
    "sinc",
    "sigmoid",
    "sign",
    "floor",
    "i0",
    "neg",
    "deg2rad",
    "positive",
    "frac",
]:
    add(f"torch.{_name}", getattr(torch, _name))
for _name in ["log", "log2", "log10", "log1p", "sqrt", "rsqrt", "reciprocal", "lgamma", "digamma"]:
    add(f"torch.{_name}", positive(getattr(torch, _name)))
for _name in ["asin", "acos", "atanh", "erfinv"]:
    add(f"torch.{_name}", unit(getattr(torch, _name)))
add("torch.acosh", positive(lambda x: torch.acosh(x + 1)))
add("torch.logit", lambda x: torch.logit(torch.sigmoid(x), eps=1e-6))
for _name in ["i0e", "i1", "i1e", "ndtr", "log_ndtr", "entr", "erfcx", "bessel_j0"]:
    add(f"special.{_name}", getattr(torch.special, _name) if _name != "entr" else positive(torch.special.entr))
add("special.ndtri", lambda x: torch.special.ndtri(torch.sigmoid(x)))
add("special.xlog1py", positive(lambda x: torch.special.xlog1py(x, x)))
add("special.polygamma", positive(lambda x: torch.special.polygamma(1, x)))
add("special.zeta", positive(lambda x: torch.special.zeta(x + 2, torch.tensor(1.5, dtype=x.dtype))))
add("pow, number", positive(lambda x: x**2.5))
add("pow, tensor", positive(lambda x: x ** x.flip(1)))
add("xlogy", positive(lambda x: torch.xlogy(x, x)))
add("atan2", lambda x: torch.atan2(x, x.flip(1) + 2))
add("hypot", lambda x: torch.hypot(x, x.flip(1) + 2))
add("logaddexp", lambda x: torch.logaddexp(x, x.flip(1)))
add("logaddexp2", lambda x: torch.logaddexp2(x, x.flip(1)))
add("maximum", lambda x: torch.maximum(x, x.roll(1, 1)))
add("minimum", lambda x: torch.minimum(x, x.square()))
add("fmod", lambda x: torch.fmod(x, 0.7))
add("remainder", lambda x: torch.remainder(x, 0.7))
add("clamp", lambda x: x.clamp(-0.5, 0.5))
add("where", lambda x: torch.where(x > 0, x.square(), x.exp()))
add("lerp", lambda x: torch.lerp(x, x.flip(1), 0.3))
add("addcmul", lambda x: torch.addcmul(x, x.flip(1), x))
add("addcdiv", lambda x: torch.addcdiv(x, x.flip(1), x.square() + 1))
add("nan_to_num", torch.nan_to_num)
add("copysign", lambda x: torch.copysign(x.square(), x))
add("ldexp", lambda x: torch.ldexp(x, torch.tensor(2.0, dtype=x.dtype)))
add("heaviside", lambda x: x + torch.heaviside(x, torch.tensor(0.5, dtype=x.dtype)).detach())

# -- reductions, orders, cumulations --------------------------------------------------------------------------------

for _name in [
    "sum",
    "mean",
    "prod",
    "var",
    "std",
    "logsumexp",
    "amax",
    "amin",
    "median",
    "quantile",
    "nansum",
    "nanmean",
]:
    if _name == "quantile":
        add(_name, lambda x: torch.quantile(x, 0.3, 1))
    elif _name == "logsumexp":
        add(_name, lambda x: x.logsumexp(1))
    elif _name == "median":
        add(_name, lambda x: x.median(1).values)
    else:
        add(_name, lambda x, n=_name: getattr(torch, n)(x, 1))
add("var_mean, ddof 0", lambda x: torch.cat([v[:, None] for v in torch.var_mean(x, 1, correction=0)], 1))
add("aminmax", lambda x: torch.stack([*torch.aminmax(x, dim=1)], 1))
add("norm 2", lambda x: x.norm(dim=1))
add("norm 1", lambda x: x.norm(p=1, dim=1))
add("norm 3", lambda x: x.norm(p=3, dim=1))
add("norm inf", lambda x: x.norm(p=math.inf, dim=1))
add("linalg.vector_norm", lambda x: torch.linalg.vector_norm(x, 2.5, dim=1))
add("renorm", lambda x: torch.renorm(x, 2, 0, 0.5))
add("normalize", lambda x: F.normalize(x, dim=1))
add("softmax", lambda x: x.softmax(1))
add("softmin", lambda x: F.softmin(x, 1))
add("log_softmax", lambda x: x.log_softmax(1))
for _name in ["cumsum", "cumprod", "logcumsumexp"]:
    add(_name, lambda x, n=_name: getattr(torch, n)(x, 1))
add("cummax", lambda x: x.cummax(1).values)
add("cummin", lambda x: x.cummin(1).values)
add("diff", lambda x: x.square().diff(dim=1))
add("trapezoid", lambda x: torch.trapezoid(x.square(), dim=1))
add("sort", lambda x: x.sort(1).values.cumsum(1))
add("msort", lambda x: torch.msort(x).cumsum(1))
add("topk", lambda x: x.topk(3, 1).values)
add("kthvalue", lambda x: x.kthvalue(2, 1).values)
add("max with indices", lambda x: x.max(1).values)
add("mode", lambda x: x.mode(1).values)

# -- indexing and shapes --------------------------------------------------------------------------------------------

_ORDER = torch.tensor([4, 0, 3, 3, 1, 2])
add("gather", lambda x: x.gather(1, _ORDER.expand(len(x), -1)))
add("take_along_dim", lambda x: torch.take_along_dim(x, _ORDER.expand(len(x), -1), 1))
add("index_select", lambda x: x.index_select(1, _ORDER))
add("advanced indexing", lambda x: x[:, _ORDER] * x)
add("index_add", lambda x: torch.zeros_like(x).index_add(1, _ORDER, x.square()))
add("index_copy", lambda x: x.square().index_copy(1, torch.tensor([0, 2]), x[:, 3:5].exp()))
add("index_fill", lambda x: x.square().index_fill(1, torch.tensor([0, 2]), 0.5))
add("index_put", lambda x: x.square().index_put((torch.arange(len(x)), torch.arange(len(x))), x[:, 0].exp()))
add("index_reduce, mean", lambda x: torch.ones_like(x).index_reduce(1, _ORDER, x.exp(), "mean"))
add("index_reduce, prod", lambda x: torch.ones_like(x).index_reduce(1, _ORDER, x.exp(), "prod"))
add("scatter", lambda x: torch.zeros_like(x).scatter(1, torch.arange(6).flip(0).expand(len(x), -1), x.exp()))
add("scatter_add", lambda x: torch.zeros_like(x).scatter_add(1, _ORDER.expand(len(x), -1), x.exp()))
for _name in ["sum", "prod", "mean", "amax", "amin"]:
    add(
        f"scatter_reduce, {_name}",
        lambda x, how=_name: torch.ones_like(x).scatter_reduce(1, _ORDER.expand(len(x), -1), x.exp(), how),
    )
add("masked_fill", lambda x: x.square().masked_fill(x > 0.5, 0.0))
add("masked_select", lambda x: x.masked_select(torch.tensor([1, 0, 1, 1, 0, 1], dtype=torch.bool)).square())
add("masked_scatter", lambda x: x.masked_scatter(torch.tensor([1, 0, 1, 0, 0, 0], dtype=torch.bool), x.square()))
add("take", lambda x: x.square().take(torch.arange(2 * len(x)).reshape(len(x), 2)))
add("roll", lambda x: x * x.roll(2, 1))
add("flip", lambda x: x * x.flip(1))
add("tril", lambda x: torch.tril(x, -1).exp(), 3, 3)
add("diagonal", lambda x: x.diagonal(dim1=1, dim2=2).square(), 3, 3)
add("diag_embed", lambda x: torch.diag_embed(x).square())
add("unfold of a tensor", lambda x: x.unfold(1, 3, 1).square())
add("as_strided", lambda x: x.contiguous().as_strided((len(x), 3), (6, 2)).square())
add("cat and stack", lambda x: torch.stack([torch.cat([x, x.square()], 1), torch.cat([x.exp(), x], 1)], 1))
add("chunk and split", lambda x: x.chunk(2, 1)[0] * x.split([3, 3], 1)[1])
add("repeat_interleave", lambda x: x.square().repeat_interleave(2, 1))
add("expand and permute", lambda x: x[:, :, None].expand(-1, -1, 2).permute(0, 2, 1).square())
add("to and from float32", lambda x: x.square().float().double() * 0 + x.square())
for _name in ["constant", "reflect", "replicate", "circular"]:
    add(f"pad, {_name}", lambda x, how=_name: F.pad(x, (1, 2), mode=how).square(), 2, 4)
add("pixel_shuffle", lambda x: F.pixel_shuffle(x.square(), 2), 4, 2, 2)
add("pixel_unshuffle", lambda x: F.pixel_unshuffle(x.square(), 2), 1, 4, 4)
add("channel_shuffle", lambda x: F.channel_shuffle(x.square(), 2), 4, 2, 2)
add("one_hot of an argmax", lambda x: F.one_hot(x.argmax(1), 6).to(x.dtype) * x.square())
