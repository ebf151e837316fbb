"""A command line for convolutional networks whose parts are plugins."""
