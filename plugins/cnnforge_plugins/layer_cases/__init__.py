"""What cnnforge needs to test and benchmark the layers of this plugin.

For each layer a module has test cases, benchmark cases, a function that counts arithmetic
operations and bytes, and mostly a function of PyTorch to compare with. The declarations of the
layers (``LayerSpec``) name them.
"""
