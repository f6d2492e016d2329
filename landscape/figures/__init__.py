"""Figures, tables and sentences from stored results; nothing here touches a network or imports torch."""
