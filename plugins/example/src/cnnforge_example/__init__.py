"""Layers for cnnforge that Keras does not have."""
