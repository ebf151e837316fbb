"""Cases, benchmarks, work and PyTorch's counterpart of each layer, which its spec names."""
