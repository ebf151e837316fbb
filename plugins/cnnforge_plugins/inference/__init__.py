"""Inference plans of Keras models, which run without Keras."""
