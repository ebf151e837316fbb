"""Modules that several datasets have in common."""
