"""From a model's name and arguments to a network."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import nn

from ..base.errors import UsageError
from ..base.plugins import Plugin, call, parameters
from ..data.examples import Examples
from ..numerics.trees import leaves

FACTS = ("input_shape", "in_channels", "classes")


def facts_of(examples: Examples) -> dict[str, Any]:
    """What a model builder may want to know: ``input_shape``, ``in_channels`` and ``classes`` of the data."""
    import numpy as np

    if examples.ready_made:
        return {}  # what is in a batch is its objective's affair
    first = examples.batch(np.arange(1))
    shape = [tuple(t.shape[1:]) for t in leaves(first.inputs)]
    classes = examples.classes()
    facts: dict[str, Any] = {}
    if len(shape) == 1:
        facts["input_shape"] = list(shape[0])
        if len(shape[0]) == 3:
            facts["in_channels"] = shape[0][0]
    if "classes" in examples.facts:
        facts["classes"] = len(examples.facts["classes"])
    elif classes is not None:
        facts["classes"] = int(classes.max()) + 1
    else:
        facts["classes"] = sum(t[0].numel() for t in leaves(first.targets))
    return facts


def default_model(examples: Examples) -> str:
    """The model taken when none is named: a convnet for images, else an MLP."""
    return "convnet" if "in_channels" in facts_of(examples) else "mlp"


def wants(plugin: Plugin, arguments: Mapping[str, object], facts: Collection[str]) -> bool:
    """Whether a model's builder takes one of these facts, and the arguments do not say it."""
    return "path" not in plugin.record and bool((set(parameters(plugin.call)[0]) & set(facts)) - set(arguments))


def build_model(plugin: Plugin, arguments: Mapping[str, object], facts: Mapping[str, object]) -> nn.Module:
    """Call the model's builder.

    Args:
        plugin: A registered builder or the user's own; only registered ones get ``facts`` filled in.
        arguments: The user's ``k=v`` arguments.
        facts: From `facts_of`, or recorded by the run.

    Raises:
        UsageError: If an argument is unknown, or the callable returns no ``nn.Module``.
    """
    model = call(plugin, arguments, facts if "path" not in plugin.record else None)
    if not isinstance(model, nn.Module):
        raise UsageError(f"it returned a {type(model).__name__}", plugin.name, "return a torch.nn.Module")
    return model
