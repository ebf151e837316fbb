"""Show in one web page how a trained network comes to its answer for one picture."""
