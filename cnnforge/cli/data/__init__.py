"""The commands `cnnforge data`: check, convert and show data."""
