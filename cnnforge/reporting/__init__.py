"""Figures of what a run has reached."""
