"""The built-in datasets."""
