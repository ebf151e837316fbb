"""Find and load plugins, and look up the layers, datasets, models etc. that they declare."""
