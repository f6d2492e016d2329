"""For Hugging Face: `SharpnessAware` for the Trainer of transformers, `Backward` for a loop with Accelerate."""

from .step import Backward, SharpnessAware

__all__ = ["Backward", "SharpnessAware"]
