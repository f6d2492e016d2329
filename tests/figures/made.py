"""Small stored results with known numbers, made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from landscape.results.result import Result

HOSTILE = ["</script><img src=x onerror=alert(1)>", "_x", r"$\frac{$", "数字領域", "=cmd|' /C calc'!A0", "a" * 200]


def facts(label: str, seed: int | None, **more: Any) -> dict[str, Any]:
    run = None if seed is None else {"optimizer": label, "seed": seed, "step": 10, "path": f"/runs/{label}-{seed}"}
    record = {
        "target": f"/runs/{label}-{seed}/checkpoints/step-10.safetensors",
        "label": label,
        "run": run,
        "weights_hash": f"weights-{label}-{seed}",
        "data_hash": "d" * 64,
        "n_examples": 32,
        "split": "train",
        "loss_function": "cross_entropy",
        "torch": "2.13.0",
        "seconds": 0.5,
        "spec": {},
    }
    return record | more


def hessian(label: str, seed: int | None, top: float = 2.0, residual: float = 1e-6, **more: Any) -> Result:
    values = top / np.arange(1, 4)
    data = {
        "eigenvalues": ("rank", values),
        "residuals": ("rank", np.full(3, residual)),
        "converged": ("rank", np.array([True, True, residual < 0.1])),
    }
    return Result("hessian", xr.Dataset(data, {"rank": [1, 2, 3]}), facts(label, seed, operator="hessian", **more))


def spectrum(label: str, seed: int | None, step: int = 10, **more: Any) -> Result:
    """A density of ten parameters with one outlier at 2, over a bulk at 0."""
    grid = np.linspace(-0.5, 2.5, 61)
    curve = sum(
        w * np.exp(-0.5 * ((grid - m) / 0.1) ** 2) / (0.1 * np.sqrt(2 * np.pi)) for w, m in ((0.9, 0), (0.1, 2))
    )
    data = {
        "eigenvalues": ("rank", np.array([2.0, 0.2, 0.1, 0.1, 0.05])),
        "residuals": ("rank", np.full(5, 1e-6)),
        "converged": ("rank", np.ones(5, dtype=bool)),
        "smallest": ("rank_from_below", np.array([-0.1])),
        "density": ("curvature", curve),
        "density_stderr": ("curvature", 0.1 * curve),
    }
    coordinates = {"rank": np.arange(1, 6), "rank_from_below": [1], "curvature": grid}
    record = facts(
        label, seed, operator="hessian", n_parameters=10, lambda_ratio=40.0, density={"sigma": 0.1}, **more
    ) | {"n_examples": 16}
    if record["run"]:
        record["run"] |= {"step": step, "epoch": step / 5}
    record["edges_of_stability"] = {"gd": 20.0}
    return Result("hessian", xr.Dataset(data, coordinates), record)


def sharpness(label: str, seed: int | None, value: float = 0.1, rhos: tuple[float, ...] = (0.05,)) -> Result:
    table = value / np.sqrt([[1.0], [4.0], [16.0]]) * np.asarray(rhos) / rhos[0]
    data = {
        "value": (("m", "rho"), table),
        "stderr": (("m", "rho"), abs(table) / 10),
        "n_blocks": (("m", "rho"), table),
    }
    data["measure"] = ("row", np.array(["m-sharpness"], dtype=str))
    record = facts(label, seed, spec={"p": "2", "adaptive": False})
    return Result("sharpness", xr.Dataset(data, {"m": [1, 4, 16], "rho": list(rhos)}), record)


def radii(
    label: str, seed: int | None, names: tuple[str, ...] = ("p", "q"), rhos: tuple[float, ...] = (0.01, 0.05, 0.1)
) -> Result:
    """m-sharpness at three radii, per domain, beside F_gamma and the control of rescaling."""
    result = sharpness(label, seed, rhos=rhos)
    per_domain = np.stack([(i + 0.5) * result.data["value"].values for i in range(len(names))])
    gammas = (0.5, 1.0, 2.0)
    data = result.data.drop_vars("measure").assign_coords(domain=list(names))
    data["domain_value"] = (("domain", "m", "rho"), per_domain)
    data["measure"] = ("row", np.array(["local-flatness"] * len(gammas), dtype=str))
    rows = [
        {"measure": "local-flatness", "rho": g, "value": 0.01 * g**2 * (1 + (seed or 0)), "stderr": 0.001 * g}
        for g in gammas
    ]
    moved = {"measure": "m-sharpness", "m": 4, "rho": 0.05, "values": [0.1, 0.2, 2.0], "moves": True}
    layers = [{"measure": "relative-flatness", "layer": n, "values": [1.0, 0.0, -3.0], "moves": True} for n in names]
    still = {"measure": "margin", "m": None, "rho": None, "values": [1.0, 1.0, 1.0], "moves": False}
    control = {
        "kind": "rescale",
        "moved_above": 0.01,
        "networks": [{"factor": f, "output_change": 1e-7} for f in (1.0, 2.0, 10.0)],
        "measures": [moved, still, *layers],
    }
    more = {"n_examples": 16, "measures": rows, "domain_counts": dict.fromkeys(names, 8), "control": control}
    return Result("sharpness", data, result.record | more)


BLOCKS = ("model.embed_tokens", *(f"model.layers.{i}" for i in range(3)), "model.norm", "lm_head")


def groups(label: str, seed: int | None, step: int = 10, names: tuple[str, ...] = BLOCKS, top: float = 2.0) -> Result:
    """Spectra of groups of a hundred parameters: eigenvalues ``top``/(1 + i) and half of it, and their mean."""
    result = hessian(label, seed, top)
    tops = [top / (1 + i) for i in range(len(names))]
    result.record |= {"group_by": "block", "n_examples": 16}
    result.record["layers"] = {
        name: {
            "n_parameters": 100,
            "eigenvalues": [value, value / 2],
            "residuals": [1e-6, 1e-6],
            "converged": [i != 1, True],
            "trace": {"estimate": 4 * value, "stderr": abs(value)},
        }
        for i, (name, value) in enumerate(zip(names, tops, strict=True))
    }
    data = result.data.assign_coords(layer=list(names))
    data["layer_eigenvalues"] = (("layer", "rank"), np.outer(tops, [1, 0.5, np.nan]))
    if result.record["run"]:
        result.record["run"] |= {"step": step}
    return Result("hessian", data, result.record)


def earlier(label: str, seed: int | None) -> Result:
    """The spectrum at an earlier checkpoint."""
    return spectrum(label, seed, step=5)


def over_training(label: str, seed: int | None, step: int = 5) -> Result:
    """The surface at an earlier checkpoint."""
    result = plane(label, seed)
    if result.record["run"]:
        result.record["run"] |= {"step": step}
    result.record["n_examples"] = 16
    return result


def axes(kind: str, count: int) -> list[dict[str, Any]]:
    return [{"direction": kind, "norm": 3.0, "seed": 0, "axis": i} for i in range(count)]


def plane(label: str, seed: int | None, loss: Any = None, kind: str = "filter", **more: Any) -> Result:
    x, y = np.linspace(-1, 1, 7), np.linspace(-0.5, 0.5, 5)
    if loss is None:
        loss = 0.01 * (1 + (seed or 0)) + 2 * x[None, :] ** 2 + y[:, None] ** 2
    loss = np.asarray(loss, dtype=float)
    data = {"loss": (("y", "x"), loss), "accuracy": (("y", "x"), np.clip(1 - 0.2 * np.nan_to_num(loss), 0, 1))}
    names = list(more.pop("names", ("p", "q")))
    data["domain_loss"] = (("domain", "y", "x"), np.stack([(1 + i) * loss for i in range(len(names))]))
    record = facts(
        label, seed, kind="2d", axes=axes(kind, 2), fixed_parameters=9, batchnorm_layers=0, bn_policy="keep"
    )
    return Result("surface", xr.Dataset(data, {"y": y[: len(loss)], "x": x, "domain": names}), record | more)


def trajectory(label: str, seed: int | None, runs: tuple[str, ...] = ("sgd", "sam"), count: int = 4) -> Result:
    """A plane with ``count`` checkpoints of each run, which end off the plane."""
    x, y = np.linspace(-2, 1, 5), np.linspace(-1, 1, 4)
    loss = 0.1 + (x[None, :] - 0.2) ** 2 + y[:, None] ** 2
    t = np.linspace(1, 0, count)
    number = np.repeat(np.arange(len(runs)), count)
    far = np.tile(t, len(runs)) * (1 + number)
    data = {
        "loss": (("y", "x"), loss),
        "checkpoint_x": ("checkpoint", -far),
        "checkpoint_y": ("checkpoint", 0.3 * far * (1 - number)),
        "off_plane": ("checkpoint", 0.4 * far),
        "from_origin": ("checkpoint", 1.1 * far),
        "checkpoint_loss": ("checkpoint", 0.1 + far),
        "plane_loss": ("checkpoint", 0.05 + far),
    }
    axes = [
        {"direction": f"pca:{k}", "norm": 1.0, "seed": None, "explained_variance": v} for k, v in ((1, 0.8), (2, 0.1))
    ]
    facts_of = [
        {"label": run, "step": i, "run": {"optimizer": run, "seed": seed, "step": i}}
        for run in runs
        for i in range(count)
    ]
    record = facts(label, seed, kind="2d", axes=axes, checkpoints=facts_of, bn_policy="keep", batchnorm_layers=0)
    return Result("plane", xr.Dataset(data, {"y": y, "x": x, "run": ("checkpoint", number)}), record)


def between(label: str, seed: int | None, height: float = 1.0, **more: Any) -> Result:
    """A path to SAM with a barrier of ``height`` in its middle."""
    t = np.linspace(0, 1, 9)
    loss = 0.1 + 0.1 * t + height * np.sin(np.pi * t)
    data = {"loss": ("t", loss), "accuracy": ("t", 1 - loss / 10)}
    record = facts(label, seed, kind="line", a="/a.pt", b="/b.pt", barrier=height, loss=loss.tolist(), t=t.tolist())
    record |= {"b_run": {"optimizer": "sam", "seed": 7}, "bn_policy": "recalibrate", "batchnorm_layers": 2}
    return Result("path", xr.Dataset(data, {"t": t}), record | more)


def line(label: str, seed: int | None, repeats: int = 3) -> Result:
    x = np.linspace(-1, 1, 9)
    loss = 0.02 + np.stack([(1 + 0.1 * r) * x**2 for r in range(repeats)])
    data = {"loss": (("repeat", "x"), loss), "accuracy": (("repeat", "x"), 1 - loss / 10)}
    data |= {"test_loss": (("repeat", "x"), 2 * loss), "test_accuracy": (("repeat", "x"), 1 - loss / 5)}
    record = facts(label, seed, kind="1d", axes=axes("filter", repeats), fixed_parameters=9, batchnorm_layers=0)
    return Result("surface", xr.Dataset(data, {"x": x}), record)


def domains(label: str, seed: int | None, names: tuple[str, ...] = ("p", "q", "r"), variance: float = 1e-3) -> Result:
    loss = 0.1 * (1 + np.arange(len(names))) + 0.01 * (seed or 0)
    seen = np.arange(len(names)) < len(names) - 1
    cosine = np.cos(np.subtract.outer(np.arange(len(names)), np.arange(len(names))))
    data = {
        "loss": ("domain", loss),
        "accuracy": ("domain", 1 - loss),
        "seen": ("domain", seen),
        "gradient_cosine": (("domain", "other"), cosine),
        "cross_sharpness": (("source", "domain"), np.vstack([cosine, cosine[:1]]) * loss),
    }
    coordinates = {"domain": list(names), "other": list(names), "source": [*names, "seen"]}
    return Result("domains", xr.Dataset(data, coordinates), facts(label, seed, loss_variance=variance))


def domain_curves(label: str, seed: int | None, names: tuple[str, ...] = ("p", "q", "r")) -> Result:
    steps = np.arange(0, 9, 2)
    loss = np.exp(-steps / 4)[:, None] * (1 + np.arange(len(names))) + 0.01 * (seed or 0)
    data = {
        "loss": (("step", "domain"), loss),
        "normalized_loss": (("step", "domain"), (loss - loss.min(0)) / np.ptp(loss, axis=0)),
        "seen": ("domain", np.arange(len(names)) < len(names) - 1),
        "loss_variance": ("step", loss[:, :-1].var(1)),
        "perturbed_loss_variance": ("step", 1.5 * loss[:, :-1].var(1)),
        "conflict_share": ("step", np.linspace(0, 0.5, len(steps))),
    }
    return Result("domain-curves", xr.Dataset(data, {"step": steps, "domain": list(names)}), facts(label, seed))


def training(
    label: str, seed: int | None, names: tuple[str, ...] = ("p", "q", "r"), unseen: float = 0.5, **final: Any
) -> Result:
    steps = np.arange(0, 11, 2)
    fall = np.exp(-steps / 4) + 0.01 * (seed or 0)
    data = {
        "batch_loss": ("step", np.linspace(2, 0.1, 10)),
        "train_loss": ("eval_step", fall),
        "domain_loss_variance": ("eval_step", fall / 50),
        "domain_loss": (("eval_step", "domain"), fall[:, None] * (1 + np.arange(len(names)))),
        "surrogate_gap_h": ("surrogate_gap_step", 0.1 * fall[::2]),
        "gradient_alignment_angle": ("gradient_alignment_step", 20 * fall[::3]),
    }
    end = {"train_loss": 0.1, "train_accuracy": 0.99, "test_accuracy": 0.9, "unseen_accuracy": unseen}
    record = facts(label, seed, final={**end, "domain_loss_variance": 2e-3, **final}, holdout=[names[-1]])
    del record["weights_hash"], record["data_hash"], record["n_examples"]
    record["spec"] = {"base": "sgd", "data": "digits-rotated", "loss": "cross_entropy", "rho": 0.05}
    coordinates = {"step": np.arange(1, 11), "eval_step": steps, "domain": list(names)}
    coordinates |= {"surrogate_gap_step": steps[::2] + 1, "gradient_alignment_step": steps[::3] + 1}
    return Result("training", xr.Dataset(data, coordinates), record)


def everything(labels: tuple[str, ...] = ("sgd", "sam"), seeds: tuple[int | None, ...] = (0, 1)) -> list[Result]:
    makers = (hessian, spectrum, earlier, groups, sharpness, radii, plane, over_training, line)
    makers += (domains, domain_curves, training, trajectory, between)
    return [make(label, seed) for label in labels for seed in seeds for make in makers]


def hostile(labels: tuple[str, ...] = ("sgd", *HOSTILE)) -> list[Result]:
    """Results whose optimizers, domains and paths have names that try to break out of the page or the figure."""
    names = tuple(HOSTILE)
    results = []
    for label in labels:
        results += [
            hessian(label, 0),
            spectrum(label, 0),
            earlier(label, 0),
            groups(label, 0, names=names),
            sharpness(label, 0),
            radii(label, 0, names),
            plane(label, 0, names=names),
            over_training(label, 0),
            line(label, 0),
        ]
        results += [trajectory(label, 0, runs=names), between(label, 0)]
        results += [domains(label, 0, names), domain_curves(label, 0, names), training(label, 0, names)]
    return results
