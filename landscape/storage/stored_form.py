"""The form of stored results: which fields of a record have which type, and which arrays have which dimensions.

A stored file may be a stranger's. What figures, tables and reports take for granted is looked at once, when the file
is read, so that a result of another form is refused where it is read and not where it is drawn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from .record_form import RECORDS, CommonRecord

if TYPE_CHECKING:
    import xarray as xr

# Dimensions of the arrays that figures look for; one of several where there are several ways.
_GRID: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("loss", "accuracy", "domain_variance", "worst_domain"), ("x", "repeat x", "y x")),
    **dict.fromkeys(("domain_loss", "domain_accuracy"), ("domain x", "domain repeat x", "domain y x")),
}
_OVER_DOMAINS = ("loss", "accuracy", "gradient_norm", "lambda_1", "m_sharpness", "seen", "trace", "disam_weight")
_ARRAYS: dict[str, dict[str, tuple[str, ...]]] = {
    "hessian": {
        "eigenvalues": ("rank",),
        "residuals": ("rank",),
        "smallest": ("rank_from_below",),
        "density": ("curvature",),
        "density_nodes": ("node",),
        "density_weights": ("node",),
        "layer_eigenvalues": ("layer rank",),
    },
    "sharpness": {
        "measure": ("row",),
        "row_value": ("row",),
        "row_m": ("row",),
        "row_rho": ("row",),
        "value": ("m rho",),
        "stderr": ("m rho",),
    },
    "surface": _GRID,
    "plane": {
        **{name: (dims[-1],) for name, dims in _GRID.items()},
        **dict.fromkeys(("checkpoint_x", "checkpoint_y", "checkpoint_loss", "run"), ("checkpoint",)),
    },
    "path": {
        "loss": ("t",),
        "accuracy": ("t",),
        "domain_loss": ("domain t",),
        "domain_accuracy": ("domain t",),
    },
    "domains": {
        **dict.fromkeys(_OVER_DOMAINS, ("domain",)),
        "gradient_cosine": ("domain other",),
        "cross_sharpness": ("source domain",),
        "split_loss": ("split domain",),
        "split_accuracy": ("split domain",),
    },
    "domain-curves": {
        "loss": ("step domain",),
        "accuracy": ("step domain",),
        "seen": ("domain",),
        "loss_mean": ("step",),
        "loss_variance": ("step",),
    },
    "training": {"domain_loss": ("eval_step domain",), "domain_accuracy": ("eval_step domain",)},
    "study": {"value": ("model measure",), "outcome_value": ("model outcome",)},
}
_NEEDED = {
    "hessian": ("eigenvalues",),
    "surface": ("loss",),
    "plane": ("loss", "checkpoint_x", "checkpoint_y"),
    "path": ("loss",),
    "domains": ("loss",),
    "domain-curves": ("loss",),
    "study": ("value", "outcome_value"),
}
_NUMBERS = frozenset({"x", "y", "t", "step", "eval_step", "rank", "rank_from_below", "curvature", "node", "rho", "m"})
_TEXTS = frozenset({"domain", "other", "source", "split", "layer", "measure", "model", "outcome", "arm"})


def require_fields(what: str, value: object, form: object) -> None:
    """Whether JSON has the form of a `TypedDict`.

    Raises:
        ValueError: If not; the message says what it is, where in it, and which type was expected.
    """
    try:
        msgspec.convert(value, form)
    except msgspec.ValidationError as error:
        raise ValueError(f"{what}: {error}") from None


def require_form(kind: object, data: xr.Dataset, record: object) -> None:
    """Whether a result is of the form that figures, tables and reports rely on.

    Args:
        kind: The analysis; of one that is not known here, nothing is known but that its record is an object.
        data: Its arrays.
        record: Its record, as read from JSON.

    Raises:
        ValueError: If not; the message names the field or array.
    """
    if not isinstance(kind, str) or not isinstance(record, dict):
        raise ValueError("its kind is no text or its record no object")
    require_fields(f"the record of a {kind}", record, RECORDS.get(kind, CommonRecord))
    for name in _NEEDED.get(kind, ()):
        if name not in data:
            raise ValueError(f"the arrays of a {kind}: there is no {name!r}")
    dimensions = _ARRAYS.get(kind, {})
    for name, variable in ((str(n), v) for n, v in data.variables.items()):
        found = " ".join(map(str, variable.dims))
        if name in dimensions and found not in dimensions[name]:
            raise ValueError(f"the arrays of a {kind}: {name!r} lies over ({found or 'nothing'})")
        text = variable.dtype.kind in "OU"
        if (
            kind in _ARRAYS
            and (name in _TEXTS or name in dimensions or name in _NUMBERS)
            and text != (name in _TEXTS)
        ):
            raise ValueError(f"the arrays of a {kind}: {name!r} holds {variable.dtype}")
