"""The built-in training callbacks."""
