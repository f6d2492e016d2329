"""A network of GPT-2's shape (124 million parameters), and the peak memory of one product, in a process of its own.

``python gpt2_shaped.py VOCABULARY [CHUNK]`` prints the parameters and the bytes that a product takes at its peak,
beyond what the process held before there was a network.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landscape.problem.problem import Problem

WIDTH, BLOCKS, HEADS, POSITIONS = 768, 12, 12, 256


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.c_attn, self.c_proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.c_fc, self.back = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (z.unflatten(-1, (HEADS, -1)).transpose(1, 2) for z in self.c_attn(self.ln_1(x)).chunk(3, -1))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.c_proj(mixed.transpose(1, 2).flatten(2))
        return x + self.back(F.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))


class GPT2(nn.Module):
    """Embedding and head are one tensor, as GPT-2's."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, WIDTH), nn.Embedding(1024, WIDTH)
        self.h, self.ln_f = nn.ModuleList(Block() for _ in range(BLOCKS)), nn.LayerNorm(WIDTH)
        self.lm_head = nn.Linear(WIDTH, vocabulary, bias=False)
        self.lm_head.weight = self.wte.weight
        nn.init.normal_(self.wte.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.wte(tokens) + self.wpe.weight[: tokens.shape[1]]
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x))


def status(name: str) -> int:
    """Bytes that the kernel counts for this process."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(name))
    return 1024 * int(line.split()[1])


def main(vocabulary: int, chunk: int | None) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    before = status("VmRSS")
    tokens = torch.randint(0, vocabulary, (1, POSITIONS))
    problem = Problem(GPT2(vocabulary), (tokens, tokens), "causal_lm", logit_chunk=chunk)
    vector = torch.randn(problem.n_parameters)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew: a problem was looked at when it was made
    problem.hvp(vector)
    print(problem.n_parameters, status("VmHWM") - before)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None)
