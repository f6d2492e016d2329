"""For Hugging Face: `SharpnessAware` and `LandscapeCallback` for the Trainer, `Backward` for a loop with Accelerate."""

from .record import LandscapeCallback
from .step import Backward, SharpnessAware

__all__ = ["Backward", "LandscapeCallback", "SharpnessAware"]
