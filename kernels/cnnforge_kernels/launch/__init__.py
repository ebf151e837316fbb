"""The launchers: validate once, allocate, run. NumPy arrays in, NumPy arrays out.

Shapes in letters: inputs (N, H, W, C), weights (KH, KW, C / groups, F), outputs (N, OH, OW, F).
Arrays are float32; others are refused, not converted. Non-contiguous NumPy arrays are copied.

Arrays on a CUDA device, whoever made them, are served alike: all of a call lie on one device, and
results are written to ``out`` or returned as ``DeviceArray``. Kernels run on ``stream`` (an
address, an object that has one, or ``None`` for the default stream), and nothing waits for them.
Where there is no device, ``CudaUnavailableError`` says what is missing.
"""
