"""The built-in models. They are built from stock Keras layers."""
