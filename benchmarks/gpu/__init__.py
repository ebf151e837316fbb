"""Parts of bench_gpu.py, which compares the kernels on a CUDA device with PyTorch and cuDNN.

No module here imports Keras or TensorFlow, and only ``torch_*.py`` import torch.
"""
