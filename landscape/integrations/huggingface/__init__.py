"""For Hugging Face: `SharpnessAware` and `LandscapeCallback` for the Trainer, `Backward` for Accelerate."""

from .record import LandscapeCallback
from .step import Backward, SharpnessAware

__all__ = ["Backward", "LandscapeCallback", "SharpnessAware"]
