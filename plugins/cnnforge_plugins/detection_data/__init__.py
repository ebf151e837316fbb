"""Datasets with boxes: annotated pictures, and scenes that are made by code."""
