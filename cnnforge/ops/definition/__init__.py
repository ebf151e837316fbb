"""The definition of an op: its inputs, outputs, attributes and shape rule, and their checks."""
