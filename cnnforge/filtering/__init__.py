"""Apply a feature detector to a picture, as the first layer of a network does."""
