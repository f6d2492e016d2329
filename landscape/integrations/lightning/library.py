"""Which Lightning this is: ``lightning``, or the same library under its older name ``pytorch_lightning``."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from ...base.errors import UsageError

_NAMES = ("lightning.pytorch", "pytorch_lightning")


def lightning() -> Any:
    """The module that the user has imported, else the first that is installed: their classes are not the same.

    Raises:
        UsageError: If none is.
    """
    for name in sorted(_NAMES, key=lambda name: name not in sys.modules):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not name.startswith(error.name):
                raise
    where = "landscape.integrations.lightning"
    raise UsageError("Lightning is not installed", where, "pip install 'flatminima[lightning]'")
