"""The augmentations that cnnforge comes with."""
