"""For Lightning's Trainer: `SharpnessAware` and `Landscape`; imports ``lightning`` or ``pytorch_lightning``."""

from .record import Landscape
from .step import SharpnessAware

__all__ = ["Landscape", "SharpnessAware"]
