"""The launchers: they validate the arguments once, allocate the results and run the kernels.

Shapes in letters: inputs (N, H, W, C), weights (KH, KW, C / groups, F), outputs (N, OH, OW, F).
Arrays are float32; other dtypes are an error, not converted. Non-contiguous arrays are copied.

Arrays may lie on a CUDA device, whatever library made them; all arrays of a call lie on the same
device. Results are written to ``out`` or returned as ``DeviceArray``. Kernels run on ``stream`` (an
address, an object that has one, or ``None`` for the default stream), and the call does not wait for
them. Without a device, ``CudaUnavailableError`` says what is missing.
"""
