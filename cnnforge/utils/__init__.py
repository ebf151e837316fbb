"""Helpers that every part of the core may use."""
