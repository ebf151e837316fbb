"""The callbacks of training that cnnforge comes with."""
