"""A parameter in one step, seen as real numbers: a complex weight is two real ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...numerics.ascent import real_view


@dataclass
class ParamWithGrad:
    """A parameter that takes part in this step, with its group and (where the base knows it) its name."""

    parameter: nn.Parameter
    group: dict[str, Any]
    name: str | None

    @property
    def weights(self) -> Tensor:
        """Its values as real numbers, ``(...)`` or, if complex, ``(..., 2)``, in the same storage."""
        return real_view(self.parameter.detach()) if self.parameter.is_complex() else self.parameter

    @property
    def gradient(self) -> Tensor:
        """Its gradient, as the last pass left it, of the shape of `weights`; written through likewise."""
        assert self.parameter.grad is not None
        return real_view(self.parameter.grad)

    @gradient.setter
    def gradient(self, value: Tensor) -> None:
        if self.parameter.is_complex():
            value = torch.view_as_complex(value.contiguous())
        self.parameter.grad = value


def placed(value: Tensor, parameter: nn.Parameter) -> Tensor:
    """A copy of a remembered gradient, as real numbers, where the parameter is and as precise."""
    return value.to(real_view(parameter.detach())).clone()
