"""Figures of trainings: how they went and how they ended."""
