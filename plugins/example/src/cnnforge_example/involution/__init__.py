"""`Involution2D`: a window of weights for each pixel."""
