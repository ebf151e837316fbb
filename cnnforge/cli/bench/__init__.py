"""`cnnforge bench` and its tables."""
