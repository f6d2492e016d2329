"""Figures of domains, seen and unseen."""
