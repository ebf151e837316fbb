"""Samples with boxes, and datasets made from annotated pictures."""
