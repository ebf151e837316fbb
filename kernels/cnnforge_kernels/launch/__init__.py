"""The public functions, called launchers: they check arguments, allocate results and run kernels.

The shapes are: inputs (N, H, W, C), weights (KH, KW, C / groups, F), outputs (N, OH, OW, F).
Arrays are float32; another dtype is an error. Arrays that are not C-contiguous are copied.

Arrays may be on a CUDA device, and may come from any library; all arrays of a call must be on the
same device. Results are written to ``out`` or returned as ``DeviceArray``. Kernels run on
``stream``: its address, an object that has one, or ``None`` for the default stream. The call does
not wait for them. If there is no device, ``CudaUnavailableError`` says what is missing.
"""
