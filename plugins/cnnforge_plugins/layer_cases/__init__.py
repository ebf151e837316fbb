"""The cases, benchmarks, work and PyTorch counterparts of the layers; their specs name them."""
