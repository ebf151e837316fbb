"""How each layer is checked and measured: cases, benchmarks, work, and PyTorch's counterpart."""
