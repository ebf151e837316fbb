"""Augment training images when they are read."""
