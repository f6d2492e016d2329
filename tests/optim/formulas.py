"""Every method written from its paper's formulas in plain autograd; nothing of the library is imported here.

The problem: 42 examples of three domains (21, 14, 7), two linear layers with tanh between and, if wanted, batch
normalisation written out; float64, full batch. ``data`` and ``network`` are what the trainer is given; ``train``
computes the same steps from the formulas and returns the same state.
"""

from __future__ import annotations

import math

import torch
from torch import nn

COUNTS = (21, 14, 7)
NORM_EPS, NORM_MOMENTUM = 1e-5, 0.1


def data():
    """The three domains; their losses differ much."""
    g = torch.Generator().manual_seed(1)
    made = {}
    for i, n in enumerate(COUNTS):
        x = torch.randn(n, 4, generator=g, dtype=torch.float64) * (1 + i) + 0.3 * i
        made["abc"[i]] = (x, torch.randint(0, 3, (n,), generator=g))
    return {"train": made}


def network(norm=False):
    """The network that the trainer trains."""
    torch.manual_seed(0)
    return nn.Sequential(
        # A bias before a normalisation has no gradient but rounding, which Adam would blow up.
        nn.Linear(4, 7, bias=not norm),
        nn.BatchNorm1d(7) if norm else nn.Identity(),
        nn.Tanh(),
        nn.Linear(7, 3),
    ).double()


def everything():
    parts = data()["train"]
    x = torch.cat([p[0] for p in parts.values()])
    y = torch.cat([p[1] for p in parts.values()])
    return x, y, torch.repeat_interleave(torch.arange(3), torch.tensor(COUNTS))


class Net:
    """The network as a function of a list of weights; it counts and averages its batches itself."""

    def __init__(self, norm):
        self.norm = norm
        self.names = [k for k, _ in network(norm).named_parameters()]
        self.start = [p.detach().clone() for p in network(norm).parameters()]
        self.mean, self.var, self.batches = torch.zeros(7).double(), torch.ones(7).double(), 0

    def losses(self, w, x, y, count=False):
        """Cross-entropy of every example."""
        w = dict(zip(self.names, w, strict=True))
        h = x @ w["0.weight"].T + w.get("0.bias", 0.0)
        if self.norm:
            mean, var = h.mean(0), ((h - h.mean(0)) ** 2).mean(0)
            if count:
                n = len(h)
                self.mean = (1 - NORM_MOMENTUM) * self.mean + NORM_MOMENTUM * mean.detach()
                self.var = (1 - NORM_MOMENTUM) * self.var + NORM_MOMENTUM * (var * n / (n - 1)).detach()
                self.batches += 1
            h = (h - mean) / torch.sqrt(var + NORM_EPS) * w["1.weight"] + w["1.bias"]
        z = torch.tanh(h) @ w["3.weight"].T + w["3.bias"]
        return torch.logsumexp(z, 1) - z[torch.arange(len(y)), y]


def norm_of(v):
    return math.sqrt(sum(float((t * t).sum()) for t in v))


def dot(a, b):
    return sum(float((s * t).sum()) for s, t in zip(a, b, strict=True))


def plus(a, b, factor=1.0):
    return [s + factor * t for s, t in zip(a, b, strict=True)]


def times(a, factor):
    return [t * factor for t in a]


class Method:
    """Update gradients at weights ``w``, one function per method, with what it remembers in ``self``."""

    def __init__(self, net, s, decay):
        self.net, self.s, self.decay = net, s, decay if s.get("weight_decay_in_perturbation") else 0.0
        self.x, self.y, self.domain = everything()
        self.memory, self.step = None, 0

    def gradient(self, w, objective=None, count=False, rows=None, graph=False):
        w = [t.detach().requires_grad_() for t in w]
        rows = torch.arange(len(self.y)) if rows is None else rows
        each = self.net.losses(w, self.x[rows], self.y[rows], count or self.s.get("bn_second_pass") == "update")
        value = each.mean() if objective is None else objective(each)
        value = value + 0.5 * self.decay * sum((t * t).sum() for t in w)
        g = torch.autograd.grad(value, w, create_graph=graph)
        return (list(g), w) if graph else list(g)

    def variance_objective(self, each):
        lam, n = self.s["lam"], len(each)
        means = [each[self.domain == i].mean() for i in range(3)]
        if self.s.get("disam_variance") == "sample":
            total = each.mean()
            variance = sum(c / n * (total - m) ** 2 for c, m in zip(COUNTS, means, strict=True))
        else:
            centre = sum(means) / 3
            variance = sum((m - centre) ** 2 for m in means) / 3
        return each.mean() - lam * variance

    def climb(self, w, g, rho):
        p = self.s.get("p", "2")
        t = [x.abs() for x in w] if self.s.get("adaptive") else [torch.ones_like(x) for x in w]
        scaled = [a * b for a, b in zip(t, g, strict=True)]
        if p == "2":
            return [a * b * rho / (norm_of(scaled) + 1e-12) for a, b in zip(t, scaled, strict=True)]
        if p == "inf":
            return [rho * a * b.sign() for a, b in zip(t, g, strict=True)]
        flat = torch.cat([x.reshape(-1) for x in scaled])
        unit = torch.zeros_like(flat)
        unit[flat.abs().argmax()] = rho * flat[flat.abs().argmax()].sign()
        parts = torch.split(unit, [x.numel() for x in w])
        return [a * b.view_as(a) for a, b in zip(t, parts, strict=True)]

    def sgd(self, w):
        return self.gradient(w, count=True)

    def sam(self, w):
        s = self.s
        if s.get("m") == 1:
            total = [torch.zeros_like(t) for t in w]
            for k in range(len(self.y)):
                g = self.gradient(w, rows=torch.tensor([k]))
                there = self.gradient(plus(w, self.climb(w, g, s["rho"])), rows=torch.tensor([k]))
                total = plus(total, there, 1 / len(self.y))
            return total
        g, n = self.gradient(w, count=True), s.get("ascent_steps", 1)
        e = [torch.zeros_like(t) for t in w]
        here = g
        for _ in range(n):
            e = plus(e, self.climb(w, here, s["rho"] / n))
            here = self.gradient(plus(w, e))
        if s.get("order") != 2:
            return here
        # d/dw of L(w + rho g(w)/(|g(w)| + eps)), by reverse mode through g
        g, leaf = self.gradient(w, graph=True)
        length = torch.sqrt(sum((t * t).sum() for t in g))
        moved = [p + s["rho"] * t / (length + 1e-12) for p, t in zip(leaf, g, strict=True)]
        there = self.net.losses(moved, self.x, self.y).mean() + 0.5 * self.decay * sum((t * t).sum() for t in moved)
        return list(torch.autograd.grad(there, leaf))

    def usam(self, w):
        return self.gradient(plus(w, self.gradient(w, count=True), self.s["rho"]))

    def asam(self, w):
        g = self.gradient(w, count=True)
        t = [
            p.abs() + self.s["eta"] if "weight" in name else torch.ones_like(p)
            for name, p in zip(self.net.names, w, strict=True)
        ]
        length = norm_of([a * b for a, b in zip(t, g, strict=True)]) + 1e-16
        return self.gradient(plus(w, [self.s["rho"] * a * a * b / length for a, b in zip(t, g, strict=True)]))

    def gsam(self, w, first=None):
        s = self.s
        g = first or self.gradient(w, count=True)
        low = s.get("rho_min", s["rho"])
        rho = low + (s["rho"] - low) * self.lr / self.lr_max
        there = self.gradient(plus(w, self.climb(w, g, rho)))
        cosine = dot(g, there) / (norm_of(g) * norm_of(there) + 1e-12)
        across = plus(g, times(there, 1 / (norm_of(there) + 1e-12)), -cosine * norm_of(g))
        return plus(there, across, -s["alpha"])

    def sagm(self, w, first=None):
        s = self.s
        g = first or self.gradient(w, count=True)
        if s.get("adaptive"):
            length = norm_of([a.abs() * b for a, b in zip(w, g, strict=True)]) + 1e-12
            e = [(s["rho"] / length - s["alpha"]) * a * a * b for a, b in zip(w, g, strict=True)]
        else:
            e = times(g, s["rho"] / (norm_of(g) + 1e-12) - s["alpha"])
        return times(plus(g, self.gradient(plus(w, e))), 0.5)

    def disam(self, w):
        d = self.gradient(w, self.variance_objective, count=True)
        return self.gradient(plus(w, self.climb(w, d, self.s["rho"])))

    def disam_gsam(self, w):
        return self.gsam(w, self.gradient(w, self.variance_objective, count=True))

    def disam_sagm(self, w):
        return self.sagm(w, self.gradient(w, self.variance_objective, count=True))

    def vrex(self, w):
        return self.gradient(w, lambda each: 2 * each.mean() - self.variance_objective(each), count=True)

    def fsam(self, w):
        g = self.gradient(w, count=True)
        r = g if self.memory is None else plus(g, self.memory, -self.s["sigma"])
        there = self.gradient(plus(w, self.climb(w, r, self.s["rho"])))
        lam = self.s["lam"]
        self.memory = g if self.memory is None else plus(times(self.memory, lam), g, 1 - lam)
        return there

    def looksam(self, w):
        s = self.s
        g = self.gradient(w, count=True)
        if self.step % s["sam_every"] == 0:
            there = self.gradient(plus(w, self.climb(w, g, s["rho"])))
            cosine = dot(g, there) / (norm_of(g) * norm_of(there))
            self.memory = plus(there, g, -norm_of(there) * cosine / norm_of(g))
            return there
        return plus(g, self.memory, s["alpha"] * norm_of(g) / (norm_of(self.memory) + 1e-8))

    def wsam(self, w):
        g = self.gradient(w, count=True)
        there = self.gradient(plus(w, self.climb(w, g, self.s["rho"])))
        self.after = times(plus(there, g, -1), self.s["gamma"] / (1 - self.s["gamma"]))
        return g

    def entropy_sgd(self, w):
        s, x, mu = self.s, [t.clone() for t in w], [t.clone() for t in w]
        for k in range(s["langevin_steps"]):
            pull = plus(self.gradient(x, count=k == 0), plus(x, w, -1), s["gamma"])
            x = plus(x, pull, -s["langevin_lr"])
            mu = plus(times(mu, 1 - s["alpha"]), x, s["alpha"])
        return times(plus(w, mu, -1), s["gamma"])


def train(method, settings, base="sgd", norm=False, steps=5, lr=0.2, momentum=0.9, decay=0.01, clip=None):
    """Weights, running statistics and the count of batches after ``steps`` full-batch steps on a cosine schedule."""
    net = Net(norm)
    made = Method(net, settings, decay)
    w, memory = [t.clone() for t in net.start], [{} for _ in net.start]
    own_decay = 0.0 if settings.get("weight_decay_in_perturbation") else decay
    for t in range(steps):
        rate = lr * 0.5 * (1 + math.cos(math.pi * t / steps))
        made.lr, made.lr_max, made.step, made.after = rate, lr, t, None
        update = getattr(made, method.replace("-", "_").replace("adamw", "sgd").replace("adam", "sgd"))(w)
        if clip is not None:
            update = times(update, min(1.0, clip / (norm_of(update) + 1e-6)))
        for i, (g, m) in enumerate(zip(update, memory, strict=True)):
            if base == "adamw":
                w[i] = w[i] * (1 - rate * own_decay)
            d = g if base == "adamw" else g + own_decay * w[i]
            if base == "sgd":
                m["v"] = d if t == 0 else momentum * m["v"] + d
                w[i] = w[i] - rate * m["v"]
            else:
                m["m"] = 0.9 * m.get("m", 0.0) + 0.1 * d
                m["v"] = 0.999 * m.get("v", 0.0) + 0.001 * d * d
                scale = (m["v"] / (1 - 0.999 ** (t + 1))).sqrt() + 1e-8
                w[i] = w[i] - rate * m["m"] / (1 - 0.9 ** (t + 1)) / scale
            if made.after is not None:
                w[i] = w[i] - rate * made.after[i]
    state = dict(zip(net.names, w, strict=True))
    if norm:
        state |= {
            "1.running_mean": net.mean,
            "1.running_var": net.var,
            "1.num_batches_tracked": torch.tensor(net.batches),
        }
    return state
