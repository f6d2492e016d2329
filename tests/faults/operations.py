"""Operations and layers as people use them, each inside a tiny network whose curvature is asked for.

A case is a function that builds a network with deterministic weights; nothing in it is drawn from a generator, so
that it is the same on every machine.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint

N = 3  # examples
INPUTS = 4
LABELS = torch.tensor([0, 2, 1])
TOKENS = torch.tensor([[0, 3, 3, 1], [2, 4, 1, 0], [5, 2, 2, 2]])


def wave(*shape: int, rate: float = 1.7, phase: float = 0.3, factor: float = 0.8) -> Tensor:
    """Numbers without order, the same everywhere, ``shape``, float64."""
    count = math.prod(shape)
    return (factor * torch.sin(rate * torch.arange(count, dtype=torch.float64) ** 1.3 + phase)).reshape(shape)


def fill(model: nn.Module) -> nn.Module:
    """Give every parameter numbers of its own."""
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            parameter.copy_(wave(*parameter.shape, rate=1.1 + 0.37 * i, phase=0.2 * i))
    return model


class Through(nn.Module):
    """A linear map (or an embedding) into ``shape``, the operation, and a linear map to three outputs."""

    def __init__(self, operation: Callable[..., Any], shape: tuple[int, ...] = (6,), first: nn.Module | None = None):
        super().__init__()
        self.shape, self.operation = shape, operation
        self.first = first or nn.Linear(INPUTS, math.prod(shape))
        self.double()
        with torch.no_grad():
            x = TOKENS if first is not None else torch.zeros(N, INPUTS, dtype=torch.float64)
            width = self._middle(x).shape[1]
        self.last = nn.Linear(width, 3).double()

    def _middle(self, x: Tensor) -> Tensor:
        inner = self.first(x)
        found = self.operation(inner if inner.shape[1:] == self.shape else inner.reshape(len(x), *self.shape))
        if isinstance(found, tuple):
            found = found[0]
        return torch.view_as_real(found).flatten(1) if found.is_complex() else found.reshape(len(x), -1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self._middle(x)))


class Outputs(nn.Module):
    """A linear map to as many outputs as a loss wants."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.map = nn.Linear(INPUTS, width).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.map(x)


@dataclass(frozen=True)
class Operation:
    """How to build it, and with what it is asked.

    Attributes:
        model: The network, its weights still to be filled.
        tokens: Whether its inputs are token numbers.
        loss: A loss of outputs and targets, or the name of one.
        slow: Whether building it takes long.
    """

    model: Callable[[], nn.Module]
    tokens: bool = False
    loss: Any = "cross_entropy"
    slow: bool = False

    def build(self) -> tuple[nn.Module, Tensor]:
        """The filled network in eval mode, and its inputs."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on what is deprecated and still met
            model = fill(self.model().double()).eval()
        return model, TOKENS if self.tokens else wave(N, INPUTS, rate=0.9, factor=1.2)


OPERATIONS: dict[str, Operation] = {}


def add(name: str, operation: Callable[..., Any], *shape: int) -> None:
    """An operation on one tensor of ``shape`` per example."""
    OPERATIONS[name] = Operation(lambda: Through(_made(operation), shape or (6,)))


def layer(name: str, make: Callable[[], nn.Module], *shape: int, slow: bool = False) -> None:
    """A layer, built anew for each network."""
    OPERATIONS[name] = Operation(lambda: Through(make(), shape or (6,)), slow=slow)


def tokens(name: str, make: Callable[[], nn.Module], operation: Callable[..., Any], *shape: int) -> None:
    """A layer that token numbers go into."""
    OPERATIONS[name] = Operation(lambda: Through(operation, shape, first=make()), tokens=True)


def loss(name: str, function: Callable[[Tensor, Tensor], Tensor], width: int = 3) -> None:
    """A loss of ``width`` outputs and a label."""
    OPERATIONS[name] = Operation(lambda: Outputs(width), loss=function)


def _made(operation: Callable[..., Any]) -> Callable[..., Any]:
    return operation


def positive(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The function of numbers above one half."""
    return lambda x: function(x.square() + 0.5)


def unit(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The function of numbers inside (-0.9, 0.9)."""
    return lambda x: function(0.9 * torch.tanh(x))


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

# -- products and linear algebra ------------------------------------------------------------------------------------

add("matmul", lambda x: x @ x.mT, 2, 3)
add("bmm", lambda x: torch.bmm(x, x.mT), 2, 3)
add("baddbmm", lambda x: torch.baddbmm(x @ x.mT, x, x.mT), 2, 3)
add("einsum", lambda x: torch.einsum("nij,nkj->nik", x, x.exp()), 2, 3)
add("tensordot", lambda x: torch.tensordot(x, wave(3, 2), 1).square(), 2, 3)
add("kron", lambda x: torch.stack([torch.kron(a, a) for a in x]), 2, 2)
add("outer", lambda x: torch.stack([torch.outer(a, a) for a in x]))
add("cross", lambda x: torch.linalg.cross(x[:, 0], x[:, 1].exp()), 2, 3)
layer("Bilinear", lambda: _Twice(nn.Bilinear(6, 6, 2)))
add("cosine_similarity", lambda x: F.cosine_similarity(x[:, :3], x[:, 3:], 1))
add("pairwise_distance", lambda x: F.pairwise_distance(x[:, :3], x[:, 3:]))
for _p in (2.0, 1.0, 3.0, math.inf, 0.5):
    add(f"cdist, p={_p:g}", lambda x, p=_p: torch.cdist(x, x.flip(1).exp() + 1, p=p), 2, 3)
for _p in (2.0, 1.0, 3.0, math.inf):
    add(f"pdist, p={_p:g}", lambda x, p=_p: torch.stack([torch.pdist(a, p) for a in x]), 3, 2)
add("dist", lambda x: torch.stack([torch.dist(a[:3], a[3:], 2) for a in x]))


def _spd(x: Tensor) -> Tensor:
    return x @ x.mT + torch.eye(x.shape[-1], dtype=x.dtype)


for _name, _function in {
    "det": torch.linalg.det,
    "slogdet": lambda a: torch.linalg.slogdet(a).logabsdet,
    "inv": torch.linalg.inv,
    "pinv": torch.linalg.pinv,
    "cholesky": torch.linalg.cholesky,
    "cholesky_inverse": lambda a: torch.cholesky_inverse(torch.linalg.cholesky(a)),
    "eigvalsh": lambda a: torch.linalg.eigvalsh(a + torch.diag(torch.arange(3.0).double())),
    "eigh, values and projections": lambda a: torch.linalg.eigh(a + torch.diag(torch.arange(3.0).double()))[1].abs(),
    "svdvals": torch.linalg.svdvals,
    "svd": lambda a: torch.linalg.svd(a).U.abs(),
    "qr": lambda a: torch.linalg.qr(a).R,
    "lu": lambda a: torch.linalg.lu(a).U,
    "matrix_exp": torch.linalg.matrix_exp,
    "matrix_power": lambda a: torch.linalg.matrix_power(a, 3),
    "matrix_norm, fro": torch.linalg.matrix_norm,
    "matrix_norm, nuclear": lambda a: torch.linalg.matrix_norm(a, "nuc"),
    "solve": lambda a: torch.linalg.solve(a, wave(3, 2)),
    "solve_triangular": lambda a: torch.linalg.solve_triangular(a, wave(3, 2), upper=True),
    "lstsq": lambda a: torch.linalg.lstsq(a, wave(3, 2).expand(len(a), -1, -1)).solution,
    "trace": lambda a: a.diagonal(dim1=1, dim2=2).sum(1).square(),
    "householder_product": lambda a: torch.linalg.householder_product(a.tril(-1), a.diagonal(dim1=1, dim2=2).cos()),
}.items():
    add(f"linalg.{_name}", lambda x, f=_function: f(_spd(x)), 3, 3)

# -- Fourier ------------------------------------------------------------------------------------------------------

add("fft", torch.fft.fft)
add("rfft and irfft", lambda x: torch.fft.irfft(torch.fft.rfft(x) * torch.fft.rfft(x)))
add("fft2", torch.fft.fft2, 3, 4)
add("stft", lambda x: torch.stft(x, 8, window=torch.hann_window(8, dtype=x.dtype), return_complex=True), 16)
add("complex absolute value", lambda x: torch.complex(x, x.flip(1)).abs())
add("complex angle", lambda x: torch.complex(x.square() + 1, x).angle())
add("polar", lambda x: torch.polar(x.square() + 1, x))

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

# -- attention and recurrence ---------------------------------------------------------------------------------------


class _Twice(nn.Module):
    """A layer of two inputs, given the same one twice."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Any:
        return self.inner(x, x)


class _Attend(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.inner, self.options = nn.MultiheadAttention(4, 2, batch_first=True), options

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, x, x, **self.options)[0]


class _Cell(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Any:
        return self.inner(x)


_MASK = torch.tensor([[True, False, True], [True, True, False], [True, True, True]])
for _name, _options in {
    "default": {},
    "causal": {"is_causal": True},
    "mask": {"attn_mask": _MASK},
    "scale": {"scale": 0.3},
}.items():
    add(
        f"scaled_dot_product_attention, {_name}",
        lambda x, o=_options: F.scaled_dot_product_attention(x, x.flip(2), x.exp(), **o),
        2, 3, 4,
    )  # fmt: skip
layer("MultiheadAttention", _Attend, 3, 4)
layer("MultiheadAttention without weights", lambda: _Attend(need_weights=False), 3, 4)
layer("TransformerEncoderLayer", lambda: nn.TransformerEncoderLayer(4, 2, 6, batch_first=True), 3, 4)
layer(
    "TransformerEncoder",
    lambda: nn.TransformerEncoder(
        nn.TransformerEncoderLayer(4, 2, 6, batch_first=True, norm_first=True, activation="gelu"),
        2,
        enable_nested_tensor=False,
    ),
    3, 4,
)  # fmt: skip
layer("TransformerDecoderLayer", lambda: _Twice(nn.TransformerDecoderLayer(4, 2, 6, batch_first=True)), 3, 4)
for _name in ("RNN", "LSTM", "GRU"):
    layer(_name, lambda k=_name: _Cell(getattr(nn, k)(3, 4, batch_first=True)), 4, 3)
    layer(f"{_name}Cell", lambda k=_name: _Cell(getattr(nn, f"{k}Cell")(6, 4)))
layer("RNN, relu", lambda: _Cell(nn.RNN(3, 4, nonlinearity="relu", batch_first=True)), 4, 3)
layer("LSTM, two layers, both ways", lambda: _Cell(nn.LSTM(3, 2, 2, bidirectional=True, batch_first=True)), 4, 3)
layer("LSTM, projected", lambda: _Cell(nn.LSTM(3, 4, proj_size=2, batch_first=True)), 4, 3)

# -- embeddings ---------------------------------------------------------------------------------------------------


def _same(x: Tensor) -> Tensor:
    return x.square()


class _Renormalising(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.last = nn.Parameter(torch.zeros(6, 4)), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.embedding(x, self.table, max_norm=1.0).mean(1))


tokens("Embedding", lambda: nn.Embedding(6, 4), _same, 4, 4)
tokens("Embedding, sparse", lambda: nn.Embedding(6, 4, sparse=True), _same, 4, 4)
tokens("Embedding, padding_idx", lambda: nn.Embedding(6, 4, padding_idx=0), _same, 4, 4)
tokens("Embedding, max_norm", lambda: nn.Embedding(6, 4, max_norm=1.0), _same, 4, 4)
OPERATIONS["F.embedding, max_norm"] = Operation(_Renormalising, tokens=True)
tokens("Embedding, scale_grad_by_freq", lambda: nn.Embedding(6, 4, scale_grad_by_freq=True), _same, 4, 4)
for _name in ("sum", "mean", "max"):
    tokens(f"EmbeddingBag, {_name}", lambda how=_name: nn.EmbeddingBag(6, 4, mode=how), _same, 4)
tokens("EmbeddingBag, sparse", lambda: nn.EmbeddingBag(6, 4, sparse=True), _same, 4)


class _Bag(nn.Module):
    def __init__(self, mode: str, *, weighted: bool = False, **options: Any) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(6, 4, mode=mode, **options)
        self.weights = nn.Parameter(torch.zeros(4)) if weighted else None

    def forward(self, x: Tensor) -> Tensor:
        if self.weights is not None:
            return self.bag(x, per_sample_weights=self.weights.expand(x.shape))
        return self.bag(x.reshape(-1), torch.arange(0, x.numel(), x.shape[1]))


tokens("EmbeddingBag, offsets, mean", lambda: _Bag("mean"), _same, 4)
tokens("EmbeddingBag, offsets, max", lambda: _Bag("max"), _same, 4)
tokens("EmbeddingBag, offsets, padded", lambda: _Bag("mean", padding_idx=2), _same, 4)
tokens("EmbeddingBag, weighted", lambda: _Bag("sum", weighted=True), _same, 4)

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


# -- how a network is put together ---------------------------------------------------------------------------------


class _Checkpointed(nn.Module):
    def __init__(self, *, reentrant: bool) -> None:
        super().__init__()
        self.inner, self.reentrant = nn.Sequential(nn.Linear(6, 5), nn.Tanh()), reentrant

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.inner, x, use_reentrant=self.reentrant)


class _Cubed(torch.autograd.Function):
    """A custom function whose backward can be differentiated."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * x**2 * g


class _CubedOnce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * x**2 * g


class _CubedDetached(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.kept = x.detach()
        return x**3

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 3 * ctx.kept**2 * g


class _Compiled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.compile(nn.Sequential(nn.Linear(6, 5), nn.Tanh()), backend="aot_eager")

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


class _Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(x)))


def _inner_gradient(x: Tensor) -> Tensor:
    with torch.enable_grad():
        y = x if x.requires_grad else x.detach().requires_grad_()
        return torch.autograd.grad(y.pow(3).sum(), y, create_graph=True)[0]


layer("checkpoint", lambda: _Checkpointed(reentrant=False))
layer("checkpoint, reentrant", lambda: _Checkpointed(reentrant=True))
layer("a compiled part", _Compiled, slow=True)
layer("tied weights", _Tied)
add("custom function", _Cubed.apply)
add("custom function, once_differentiable", _CubedOnce.apply)
add("custom function, saving a detached tensor", _CubedDetached.apply)
add("torch.func.vmap", torch.func.vmap(lambda a: torch.sin(a).cumsum(0)))
add("a gradient inside", _inner_gradient)
add(
    "segment_reduce", lambda x: torch.stack([torch.segment_reduce(a, "sum", lengths=torch.tensor([2, 4])) for a in x])
)
