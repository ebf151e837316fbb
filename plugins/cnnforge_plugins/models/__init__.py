"""The built-in models. They consist of stock Keras layers."""
