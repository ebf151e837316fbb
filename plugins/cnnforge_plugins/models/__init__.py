"""The built-in models, of stock Keras layers."""
