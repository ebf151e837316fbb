"""Commands that show what a network, or one of its detectors, sees in a picture."""
