"""The datasets that cnnforge comes with."""
