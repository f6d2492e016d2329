"""Data of the ``datasets`` library: ``hf:NAME_OR_FOLDER``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..base.errors import UsageError
from ..base.plugins import library

_NAMES = {"validation": "val", "valid": "val", "dev": "val"}


def hf_data(source: str, *, name: str | None = None) -> dict[str, Any]:
    """Data saved with ``save_to_disk``, or on the hub (which downloads).

    Rows are dictionaries of numbers: tokenize and pad before saving. A column ``labels``, ``label``, ``targets``,
    ``target`` or ``y`` is the target; text columns are left out; texts without a target are their own targets.

    Args:
        source: A folder, or a name on the hub.
        name: Configuration of the data set, for the hub.

    Returns:
        Splits; ``validation`` is called ``"val"`` here.

    Raises:
        UsageError: If the library is missing or the data cannot be loaded.
    """
    datasets = library("datasets", "hf")
    folder = Path(source).expanduser()
    try:
        found = datasets.load_from_disk(str(folder)) if folder.is_dir() else datasets.load_dataset(source, name)
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise UsageError(f"the data cannot be loaded: {text}", f"hf:{source}", "save it with save_to_disk") from error
    splits = found if isinstance(found, Mapping) else {"train": found}
    return {_NAMES.get(str(k), str(k)): v for k, v in splits.items()}
