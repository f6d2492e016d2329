"""For Lightning's Trainer: ``callbacks=[SharpnessAware()]``; imports ``lightning``, or ``pytorch_lightning``."""

from .step import SharpnessAware

__all__ = ["SharpnessAware"]
