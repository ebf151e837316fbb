"""Checks of what a plugin declares besides layers."""
