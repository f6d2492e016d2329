"""Small networks of the families that the libraries have none of, or only large ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations


class Recurrent(nn.Module):
    """The last state of a recurrent layer, classified."""

    def __init__(self, kind: str, inputs: int = 3, width: int = 5, **options: object) -> None:
        super().__init__()
        self.layer = getattr(nn, kind)(inputs, width, batch_first=True, **options)
        self.head = nn.Linear(width * (2 if options.get("bidirectional") else 1), 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0][:, -1])


class Cells(nn.Module):
    """A cell in a Python loop, with a state that grows by a list."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.cell, self.head = getattr(nn, kind)(3, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        state, outputs = None, []
        for step in x.unbind(1):
            state = self.cell(step, state)
            outputs.append(state[0] if isinstance(state, tuple) else state)
        return self.head(torch.stack(outputs, 1).mean(1))


class Convolved(nn.Module):
    """Temporal convolutions with weight normalisation, dilated and causal."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            parametrizations.weight_norm(nn.Conv1d(a, 5, 3, dilation=d)) for a, d in ((3, 1), (5, 2))
        )
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        for layer in self.layers:
            x = F.elu(layer(F.pad(x, (2 * layer.dilation[0], 0))))
        return self.head(x.mean(2))


class StateSpace(nn.Module):
    """A diagonal state-space layer (as S4D): its kernel is a sum of damped waves, applied by FFT."""

    def __init__(self, width: int = 4, states: int = 3) -> None:
        super().__init__()
        self.lift, self.head = nn.Linear(3, width), nn.Linear(width, 4)
        self.decay = nn.Parameter(torch.randn(width, states))
        self.wave = nn.Parameter(torch.randn(width, states))
        self.strength = nn.Parameter(torch.randn(width, states, 2))
        self.step = nn.Parameter(torch.randn(width, 1))
        self.skip = nn.Parameter(torch.randn(width))

    def forward(self, x: Tensor) -> Tensor:
        x = self.lift(x).transpose(1, 2)
        length = x.shape[-1]
        rate = torch.complex(-self.decay.exp(), self.wave) * F.softplus(self.step)
        powers = (rate.unsqueeze(-1) * torch.arange(length)).exp()
        kernel = (torch.view_as_complex(self.strength).unsqueeze(-1) * powers).sum(1).real
        spectrum = torch.fft.rfft(x, n=2 * length) * torch.fft.rfft(kernel, n=2 * length)
        y = torch.fft.irfft(spectrum, n=2 * length)[..., :length] + self.skip[:, None] * x
        return self.head(F.gelu(y).mean(2))


class Selective(nn.Module):
    """A selective scan (as Mamba's), with a cumulative sum of logarithms instead of a loop."""

    def __init__(self, width: int = 4, states: int = 3) -> None:
        super().__init__()
        self.lift, self.head = nn.Linear(3, width), nn.Linear(width, 4)
        self.select = nn.Linear(width, 2 * states + width)
        self.log_decay = nn.Parameter(torch.randn(width, states) / 2)
        self.states = states

    def forward(self, x: Tensor) -> Tensor:
        x = self.lift(x)
        into, out, step = self.select(x).split([self.states, self.states, x.shape[-1]], -1)
        step = F.softplus(step)
        fade = (-self.log_decay.exp() * step.unsqueeze(-1)).cumsum(1)
        state = (fade.unsqueeze(2) - fade.unsqueeze(1)).exp()
        earlier = torch.ones(x.shape[1], x.shape[1]).tril()
        scan = torch.einsum("btsdn,ts,bsd,bsn,btn->btd", state, earlier.to(x), step * x, into, out)
        return self.head(F.silu(scan).mean(1))


class Experts(nn.Module):
    """Two of four experts per token, chosen by a router, weighted by its renormalised probabilities."""

    def __init__(self, width: int = 5, experts: int = 4, chosen: int = 2) -> None:
        super().__init__()
        self.lift, self.head = nn.Linear(3, width), nn.Linear(width, 4)
        self.router, self.chosen = nn.Linear(width, experts, bias=False), chosen
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 6), nn.GELU(), nn.Linear(6, width)) for _ in range(experts)
        )

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.lift(x).flatten(0, 1)
        weights, index = self.router(tokens).softmax(-1).topk(self.chosen)
        weights = weights / weights.sum(-1, keepdim=True)
        mixed = torch.zeros_like(tokens)
        for number, expert in enumerate(self.experts):
            row, place = torch.where(index == number)
            mixed = mixed.index_add(0, row, weights[row, place, None] * expert(tokens[row]))
        return self.head((tokens + mixed).view(*x.shape[:2], -1).mean(1))


class GraphConvolutions(nn.Module):
    """Two symmetric-normalised convolutions (as GCN's) over a dense adjacency, then the mean over nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(3, 6), nn.Linear(6, 5), nn.Linear(5, 4)

    def forward(self, nodes: Tensor, adjacency: Tensor) -> Tensor:
        whole = adjacency + torch.eye(adjacency.shape[-1]).to(adjacency)
        scale = whole.sum(-1).rsqrt()
        whole = scale.unsqueeze(-1) * whole * scale.unsqueeze(-2)
        x = F.relu(self.first(whole @ nodes))
        return self.head(F.relu(self.second(whole @ x)).mean(1))


class GraphAttention(nn.Module):
    """Attention between neighbours only (as GAT's), two heads."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.lift = nn.Linear(3, 2 * width, bias=False)
        self.source, self.target = nn.Parameter(torch.randn(2, width)), nn.Parameter(torch.randn(2, width))
        self.head = nn.Linear(2 * width, 4)

    def forward(self, nodes: Tensor, adjacency: Tensor) -> Tensor:
        x = self.lift(nodes).unflatten(-1, (2, -1))
        scores = (x * self.target).sum(-1).unsqueeze(2) + (x * self.source).sum(-1).unsqueeze(1)
        apart = (adjacency + torch.eye(adjacency.shape[-1]).to(adjacency)).unsqueeze(-1) == 0
        weights = F.leaky_relu(scores, 0.2).masked_fill(apart, -torch.inf).softmax(2)
        return self.head(F.elu(torch.einsum("bijh,bjhc->bihc", weights, x).flatten(2)).mean(1))


class Messages(nn.Module):
    """Messages along a list of edges, gathered by sum, maximum and mean (as PNA's)."""

    def __init__(self) -> None:
        super().__init__()
        self.message, self.head = nn.Linear(6, 5), nn.Linear(15, 4)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        batch, count = nodes.shape[:2]
        start, end = edges.unbind(1)
        row = torch.arange(batch)[:, None]
        sent = torch.tanh(self.message(torch.cat([nodes[row, start], nodes[row, end]], -1)))
        where = end[..., None].expand_as(sent)
        empty = sent.new_zeros(batch, count, sent.shape[-1])
        gathered = [empty.scatter_reduce(1, where, sent, how, include_self=False) for how in ("sum", "amax", "mean")]
        return self.head(torch.cat(gathered, -1).mean(1))


class Spectral(nn.Module):
    """A Fourier layer (as FNO's and GFNet's) whose complex weights are pairs of reals."""

    def __init__(self, width: int = 3, modes: int = 3) -> None:
        super().__init__()
        self.lift, self.past, self.head = nn.Conv2d(3, width, 1), nn.Conv2d(width, width, 1), nn.Linear(width, 4)
        self.weight = nn.Parameter(torch.randn(width, width, modes, modes, 2) / width)
        self.modes = modes

    def forward(self, x: Tensor) -> Tensor:
        x = self.lift(x)
        spectrum, k = torch.fft.rfft2(x), self.modes
        mixed = torch.einsum("bixy,ioxy->boxy", spectrum[..., :k, :k], torch.view_as_complex(self.weight))
        low = F.pad(mixed, (0, spectrum.shape[-1] - k, 0, spectrum.shape[-2] - k))
        x = F.gelu(torch.fft.irfft2(low, s=x.shape[-2:]) + self.past(x))
        return self.head(x.mean((2, 3)))


class Phases(nn.Module):
    """A complex network: linear maps of complex numbers, a threshold on their length, lengths as logits."""

    def __init__(self, width: int = 5) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(3, width, 2)), nn.Parameter(torch.randn(width, 4, 2))
        self.threshold = nn.Parameter(torch.randn(width))

    def forward(self, x: Tensor) -> Tensor:
        z = torch.fft.fft(x, dim=1)[:, 1] @ torch.view_as_complex(self.first)
        z = torch.polar(F.relu(z.abs() + self.threshold), z.angle())
        return (z @ torch.view_as_complex(self.second)).abs().log1p()


class Splines(nn.Module):
    """Learned functions on edges (as KAN's): a sum of bumps per input and output."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(3, 5, 6) / 2)
        self.second = nn.Parameter(torch.randn(5, 4, 6) / 2)

    def forward(self, x: Tensor) -> Tensor:
        x = x.mean(1)
        for table in (self.first, self.second):
            bumps = (-(x.unsqueeze(-1) - torch.linspace(-2, 2, 6).to(x)).square()).exp()
            x = torch.einsum("bik,iok->bo", bumps, table)
        return x


class Equilibrium(nn.Module):
    """A state repeated until it stays (as deep equilibrium networks' forward), through spectral normalisation."""

    def __init__(self, width: int = 5) -> None:
        super().__init__()
        self.inner = parametrizations.spectral_norm(nn.Linear(width, width))
        self.lift, self.head = nn.Linear(3, width), nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        given = self.lift(x.mean(1))
        state = torch.zeros_like(given)
        for _ in range(12):
            state = torch.tanh(0.5 * self.inner(state) + given)
        return self.head(state)
