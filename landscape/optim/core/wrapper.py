"""An optimizer around an optimizer: one set of groups, state and defaults, whoever asks for them."""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from torch import Tensor, nn

from ...base.errors import UsageError
from .eager import zero_grad
from .leftovers import leave

_SETTINGS = "_settings_of_wrappers"  # on a base: what methods have written into its groups


class Wrapper(torch.optim.Optimizer):
    """Shares parameter groups and state with the base optimizer, and knows its defaults.

    So schedulers, hooks and what else expects an optimizer of torch may be attached to either of the two.

    Args:
        base: The optimizer that makes the step.
        settings: Method parameters; each parameter group may override them.
        decay_in_passes: Whether the method differentiates the weight decay of the groups itself.

    Raises:
        UsageError: If the base cannot be wrapped.
    """

    one_pass = False
    """Whether the method takes no gradient elsewhere than at the weights of the step."""
    needs_domains = False
    """Whether the first pass differentiates domain losses, too."""
    _built = False

    def __init__(self, base: Any, settings: dict[str, float], decay_in_passes: bool) -> None:
        self._decay_in_passes, self.settings = decay_in_passes, settings
        self.base: torch.optim.Optimizer = base
        self._require_usable(base)
        super().__init__(base.param_groups, {**base.defaults, **settings})
        self._built = True
        for group in self.param_groups:
            self.adopt(group)
        base.__dict__.setdefault(_SETTINGS, {}).update(settings)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of the base: the same list, also after either has loaded a state."""
        return self.base.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        if self._built:  # torch's constructor starts with an empty list
            self.base.param_groups = groups

    @property
    def state(self) -> Any:
        """The state of the base: moments and the like, by parameter."""
        return self.base.state

    @state.setter
    def state(self, state: Any) -> None:
        if self._built:
            self.base.state = state

    def parameters(self) -> list[nn.Parameter]:
        """All parameters of all groups, in order."""
        return [p for group in self.param_groups for p in group["params"]]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the base optimizer, with its defaults and the method's.

        Raises:
            UsageError: If the method cannot work with it; it has not been added then.
        """
        if not self._built:  # torch's constructor hands on the groups, which are shared
            return
        self._require_minimizing(param_group)
        self.base.add_param_group(param_group)
        try:
            self.adopt(param_group)
        except UsageError:
            self.param_groups.pop()
            raise
        leave(param_group["params"])  # what passes without the group have left there is not its gradient

    def adopt(self, group: dict[str, Any]) -> None:
        """Complete a group with the method's settings; one that is complete is left as it is.

        Raises:
            UsageError: If a setting of the group makes no sense.
        """
        name = type(self).__name__
        for key, default in self.settings.items():
            value = group.setdefault(key, default)
            if not math.isfinite(value) or (key == "rho" and value < 0):
                raise UsageError(f"{key} is {value}", name, "give a finite number, a radius not below zero")
        if self._decay_in_passes and "perturbed_weight_decay" not in group:
            if "weight_decay" not in group:
                fix = "drop weight_decay_in_perturbation"
                raise UsageError(f"{type(self.base).__name__} has no weight decay", name, fix)
            group["perturbed_weight_decay"], group["weight_decay"] = group["weight_decay"], 0.0

    def _require_usable(self, base: object) -> None:
        name = type(self).__name__
        kind = type(base).__name__
        if not isinstance(base, torch.optim.Optimizer):
            fix = f"build it first: {name}(torch.optim.SGD(model.named_parameters(), lr=0.1))"
            raise UsageError(f"the base of {name} is a {kind} and no optimizer", "base", fix)
        if isinstance(base, Wrapper):
            raise UsageError(f"{kind} is no base optimizer but a method itself", name, f"wrap {kind}.base")
        closure = inspect.signature(type(base).step).parameters.get("closure")
        if closure is not None and closure.default is inspect.Parameter.empty:
            raise UsageError(
                f"{kind} calls the closure itself and cannot make the step of {name}", "base", "use SGD or Adam"
            )
        if any(group.get("differentiable") for group in base.param_groups):
            raise UsageError(
                "a differentiable step is not supported", f"{name} around {kind}", "differentiable=False"
            )
        for group in base.param_groups:
            self._require_minimizing(group)
        shared = sorted(set(self.settings) & set(base.defaults))
        if shared:
            raise UsageError(f"both {name} and {kind} have a setting called {shared[0]}", "base", "use another base")
        for key, earlier in base.__dict__.get(_SETTINGS, {}).items():
            if key in self.settings and earlier != self.settings[key]:
                raise UsageError(
                    f"this {kind} has been wrapped before, with {key}={earlier}", name, "build a new one"
                )

    def _require_minimizing(self, group: dict[str, Any]) -> None:
        plain = self.one_pass and not self.needs_domains and not self._decay_in_passes
        if group.get("maximize", self.base.defaults.get("maximize")) and not plain:
            raise UsageError(
                f"{type(self).__name__} seeks flat minima and its base maximizes", "base", "minimize the negated loss"
            )

    # -- state ---------------------------------------------------------------------------------------------------

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As torch's."""
        zero_grad(self, set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """All of the state: the base optimizer's and the method's own."""
        return {"base": self.base.state_dict(), "method": self.method_state(), "kind": type(self).__name__}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` gave, or the state of a plain base optimizer.

        The latter says nothing about the method: settings stay as they are, and what it remembers.

        Raises:
            UsageError: If it is the state of another method, or none of an optimizer.
        """
        name = type(self).__name__
        if "base" not in state_dict and not {"state", "param_groups"} <= set(state_dict):
            raise UsageError("this is not the state of an optimizer", name, "load what state_dict() gave")
        kind = state_dict.get("kind", name)
        plain = "base" not in state_dict or (kind == "ERM" and name != "ERM")
        if not plain and (kind != name or set(state_dict["method"]) != set(self.method_state())):
            raise UsageError(
                f"this is the state of {kind} and not of {name}", name, "load state_dict()['base'] of it"
            )
        own = [{k: g[k] for k in g if k not in self.base.defaults} for g in self.param_groups]
        self.base.load_state_dict(state_dict.get("base", state_dict))
        for group, before in zip(self.param_groups, own, strict=True):
            for key in set(before) - {"perturbed_weight_decay"}:
                group.setdefault(key, before[key])
            self.adopt(group)
        if not plain:
            self.load_method_state(state_dict["method"])

    def require_no_open_step(self, call: str) -> None:
        """Refuse what cannot be done while the weights are elsewhere."""

    def method_state(self) -> dict[str, Any]:
        """State of the method that outlives a step; most methods have none."""
        return {}

    def load_method_state(self, state: dict[str, Any]) -> None:
        """Restore what `method_state` gave."""

    def __getstate__(self) -> dict[str, Any]:
        """Everything but hooks, and a ``step`` that a scheduler has put around this object's own."""
        self.require_no_open_step("a copy")
        own = self.__dict__.items()
        return {k: v for k, v in own if k != "step" and not k.startswith(("_optimizer_", "_zero_grad_profile"))}


def by_place(tensors: dict[nn.Parameter, Tensor], parameters: list[nn.Parameter]) -> dict[int, Tensor]:
    """What is remembered by parameter, by its place among all of them: a form that can be saved."""
    return {i: tensors[p] for i, p in enumerate(parameters) if p in tensors}
