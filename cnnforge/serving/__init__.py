"""Serve the model of a run over HTTP: a page for a browser, and predictions for programs."""
