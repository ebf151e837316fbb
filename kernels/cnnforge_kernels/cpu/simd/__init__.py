"""SIMD code: register tiles, loads, stores and random numbers."""
