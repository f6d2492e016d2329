"""`Result`: what an analysis returns, stores and hands to figures - named arrays and their provenance."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from ..base.errors import DataError, LandscapeError, UsageError, is_out_of_memory
from ..base.files import jsonable, write_bytes
from ..base.names import unknown_name
from ..registry.figures import PLOT
from ..storage import netcdf
from ..storage.hdf5 import is_hdf5, read_hdf5
from ..storage.stored_form import require_form

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from matplotlib.figure import Figure

P = ParamSpec("P")
T = TypeVar("T")
_LARGEST = 1 << 32  # bytes; the arrays of a netCDF file of this kind are no larger
# Of the record, what a notebook shows above the numbers, and how many rows of these.
_SHOWN = (
    "loss",
    "accuracy",
    "n_examples",
    "n_parameters",
    "gradient_norm",
    "symmetry_error",
    "loss_variance",
    "dtype",
)
_ROWS = 30


class Result:
    """Labelled arrays (an xarray dataset) with a record of what was computed, from what, and how.

    Attributes:
        kind: The analysis (``hessian``, ``sharpness``, ``surface``, ``domains``, ``training``).
        data: The numbers, with named dimensions and coordinates.
        record: The command's JSON object and the full provenance; strict JSON.
        path: Where it is stored, if it is.
        vectors: Large tensors by name, stored as safetensors beside the result; not read back by `load`.

    Example:
        >>> import torch, landscape
        >>> x, y = torch.randn(20, 4), torch.arange(20) % 3
        >>> problem = landscape.Problem(torch.nn.Linear(4, 3), (x, y), "cross_entropy")
        >>> import tempfile, pathlib
        >>> found = landscape.domains(problem)
        >>> file = found.save(pathlib.Path(tempfile.mkdtemp()) / "found.nc")
        >>> landscape.Result.load(file)["loss"] == found["loss"]
        True
    """

    def __init__(
        self,
        kind: str,
        data: xr.Dataset,
        record: Mapping[str, object],
        path: Path | None = None,
        vectors: Mapping[str, Any] | None = None,
    ) -> None:
        self.kind, self.data, self.path = kind, data, path
        self.vectors = dict(vectors or {})
        self.record: dict[str, Any] = jsonable(record)

    def __getitem__(self, name: str) -> Any:
        return self.record[name]

    def __repr__(self) -> str:
        return f"<Result {self.kind} of {self.record.get('target') or 'a problem'}>\n{self.data!r}"

    def _repr_html_(self) -> str:
        """What a notebook shows: the facts, the numbers, and everything else folded away."""
        shown = [(k.replace("_", " "), self.record[k]) for k in _SHOWN if self.record.get(k) is not None]
        facts = " · ".join(f"{escape(k)} <b>{escape(_short(v))}</b>" for k, v in shown)
        table = self.to_pandas()
        rows = table.head(_ROWS).to_html(index=False, border=0, float_format=lambda v: f"{v:.6g}")
        more = f"<p>{len(table) - _ROWS} more rows</p>" if len(table) > _ROWS else ""
        name = escape(f"{self.kind} of {self.record.get('target') or 'a problem'}")
        return (
            f"<div><p><b>{name}</b></p><p>{facts}</p>{rows}{more}"
            f"<details><summary>all arrays</summary>{self.data._repr_html_()}</details></div>"
        )

    @property
    def label(self) -> str:
        """The name under which figures show it: the optimizer of its run, or the name of its file."""
        run = self.record.get("run") or {}
        if run.get("optimizer") and run.get("apart"):  # what figures tell it from others by
            return f"{run['optimizer']} ({run['apart']})"
        return str(
            run.get("optimizer") or self.record.get("label") or Path(str(self.record.get("target") or self.kind)).name
        )

    @property
    def seed(self) -> int | None:
        """The training seed of its run, if it comes from one."""
        return (self.record.get("run") or {}).get("seed")

    def to_json(self) -> dict[str, Any]:
        """The result as one JSON object."""
        return {**self.record, "result": str(self.path) if self.path else None}

    def to_pandas(self, array: str | None = None) -> pd.DataFrame:
        """The numbers as a table, a row per coordinate; of a sharpness result a row per measure.

        Args:
            array: One of ``data``'s arrays; the table holds it and all others over its dimensions or some of
                them. Default: the analysis' first array (``eigenvalues``, ``loss``, ...). Arrays over other
                dimensions have tables of their own; together they would repeat each other's rows.

        Raises:
            UsageError: If there is no such array.
        """
        import pandas as pd

        names = [str(n) for n in self.data.data_vars]
        if array is None and self.record.get("measures"):
            return pd.DataFrame(self.record["measures"])
        if array is not None and array not in names:
            raise unknown_name("array", array, names, self.kind)
        if not names:
            return pd.DataFrame()
        dims = self.data[array or names[0]].dims
        chosen = [n for n in names if set(self.data[n].dims) <= set(dims)]
        if not dims:
            return pd.DataFrame({n: [self.data[n].item()] for n in chosen})
        return self.data[chosen].to_dataframe(dim_order=list(dims)).reset_index()

    def plot(self, kind: str | None = None, *, venue: str = "neurips", columns: int = 1) -> Figure:
        """Draw it.

        Args:
            kind: A name in `landscape.registry.FIGURES` (default: the kind that shows this analysis best).
            venue: Sizes and fonts: neurips, icml, iclr, cvpr, tmlr or slides.
            columns: Columns of the page that the figure spans.

        Returns:
            A matplotlib figure, which a notebook shows at the end of a cell; no setting of matplotlib changes.

        Raises:
            UsageError: If a name is unknown, or this result has nothing for such a figure.

        Example:
            >>> import torch, landscape
            >>> x, y = torch.randn(20, 4), torch.arange(20) % 3
            >>> problem = landscape.Problem(torch.nn.Linear(4, 3), (x, y), "cross_entropy")
            >>> figure = landscape.hessian(problem, top=2).plot(venue="icml")
            >>> figure.get_figwidth()
            3.25
        """
        figure: Figure = PLOT.load()(self, kind, venue=venue, columns=columns)
        return figure

    @staticmethod
    def _is_main() -> bool:
        from ..runtime.distributed import is_main_process

        return is_main_process()

    @property
    def spread(self) -> bool:
        """Whether its vectors are spread over processes, all of which have to save it."""
        return any(type(v).__name__ == "Part" for v in self.vectors.values())  # torch is not imported to read results

    def save(self, path: Path | str) -> Path:
        """Write to a netCDF file with a checksum, atomically; before, `vectors` to a safetensors file beside it.

        Vectors that are spread over processes are written by all of them, in shards with an index; the rest by the
        first.
        """
        path = Path(path).absolute()
        if self.vectors:
            from ..weights.weights import save_tensors

            beside = path.with_suffix(".safetensors")
            facts = {k: self.record.get(k) for k in ("weights_hash", "data_hash", "axes") if self.record.get(k)}
            facts = {"kind": self.kind, **facts}
            if self.spread:
                from ..sharding.files import save_spread

                beside = save_spread(path.with_suffix(""), self.vectors, facts)
            else:
                save_tensors(beside, self.vectors, facts)
            self.record["directions" if self.kind in ("surface", "plane") else "vectors"] = str(beside)
        if not self.spread or self._is_main():
            write_bytes(path, netcdf.encode(self.data, {"kind": self.kind, "record": self.record}))
        self.path = path
        return path

    @classmethod
    def load(cls, path: Path | str) -> Result:
        """Read a stored result, also one that older versions stored as HDF5.

        The file may be a stranger's: its checksum, its sizes and the form of its record are checked.

        Raises:
            UsageError: If there is no such file.
            DataError: If it is no result of this program, or damaged.
        """
        path = Path(path).absolute()
        if not path.is_file():
            raise UsageError("there is no such result", str(path), "check the path")
        try:
            if path.stat().st_size > _LARGEST:
                raise ValueError("it is larger than results are")
            data, stored = netcdf.decoded(read_hdf5(path)) if is_hdf5(path) else netcdf.decode(path.read_bytes())
            require_form(stored["kind"], data, stored["record"])
            return cls(stored["kind"], data, stored["record"], path)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"this is no stored result: {error}", str(path), "compute it again with `force=True`"
            ) from error


def shows_stored(function: Callable[P, T]) -> Callable[P, T]:
    """A function that draws or writes its ``results`` (or ``result``), which may be a stranger's files.

    What their numbers make fail beyond what `record_form` excludes becomes a `DataError` that names the files.
    """
    signature = inspect.signature(function)

    @wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except LandscapeError:
            raise
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            given = signature.bind(*args, **kwargs).arguments
            results = given["results"] if "results" in given else [given["result"]]
            files = [str(r.path) for r in results if r.path]
            if not files or is_out_of_memory(error):
                raise
            more = f" and {len(files) - 1} more" if len(files) > 1 else ""
            raise DataError(
                f"these stored results cannot be shown: {type(error).__name__}: {str(error)[:200]}",
                f"{files[0]}{more}",
                "compute them again with `force=True`; if that does not help, report it with the traceback",
            ) from error

    return guarded


def _short(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
