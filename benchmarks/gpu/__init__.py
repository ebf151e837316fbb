"""The parts of bench_gpu.py: the kernels on a CUDA device beside PyTorch and its cuDNN.

Nothing here imports Keras or TensorFlow, and only ``torch_*.py`` import torch.
"""
