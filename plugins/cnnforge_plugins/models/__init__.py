"""The models that cnnforge comes with: plain Keras."""
