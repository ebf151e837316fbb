"""The built-in plugin: the layers, datasets and models that cnnforge comes with."""
