"""An example plugin for cnnforge, with two layers that Keras does not have."""
