"""Optimizers of the sharpness-aware family, each around any ``torch.optim.Optimizer``; one method per file."""

from .asam import ASAM
from .averaging import SWA, SWAD
from .core.closures import BatchLoss, Pieces
from .core.engine import ERM
from .disam import DISAM, DISAMGSAM, DISAMSAGM
from .entropy_sgd import EntropySGD
from .fsam import FSAM
from .gsam import GSAM
from .looksam import LookSAM
from .sagm import SAGM
from .sam import SAM
from .usam import USAM
from .vrex import VREx
from .wsam import WSAM

__all__ = [
    "ASAM", "DISAM", "DISAMGSAM", "DISAMSAGM", "ERM", "FSAM", "GSAM", "SAGM", "SAM", "SWA", "SWAD", "USAM", "WSAM",
    "BatchLoss", "EntropySGD", "LookSAM", "Pieces", "VREx",
]  # fmt: skip
