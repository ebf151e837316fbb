"""Modules of bench_gpu.py, which compares the CUDA kernels with PyTorch (cuDNN) on a device.

No module here imports Keras or TensorFlow.
"""
