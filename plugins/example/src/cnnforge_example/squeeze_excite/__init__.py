"""`SqueezeExcite`: a factor for each channel of an image."""
