"""Test cases and benchmarks of the layers of this plugin, to which the layers' specs refer.

Each module also has a function that counts the arithmetic operations and the bytes of a layer. Most
modules have a function that returns a PyTorch function for the same computation, to compare speeds.
"""
