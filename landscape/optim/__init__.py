"""Optimizers of the sharpness-aware family, each around any ``torch.optim.Optimizer``; one method per file."""

from .._deprecated import renamed
from .asam import ASAM
from .averaging import SWA, SWAD
from .core.closures import BatchLoss, MicroBatches
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
    "BatchLoss", "EntropySGD", "LookSAM", "MicroBatches", "VREx",
]  # fmt: skip

__getattr__ = renamed(__name__)
