"""Direct convolution for few channels."""
