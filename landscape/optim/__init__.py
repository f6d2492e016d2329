"""Sharpness-aware optimizers over any torch optimizer."""
