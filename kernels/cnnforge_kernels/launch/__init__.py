"""The public functions, called launchers: they check arguments, allocate results and run kernels.

The shapes are: inputs (N, H, W, C), weights (KH, KW, C / groups, F), outputs (N, OH, OW, F).
Arrays are float32; another dtype is an error. Arrays that are not C-contiguous are copied.

Arrays may also be on a CUDA device, and may come from any library. All arrays of a call must be on
the same device. The results are written to ``out``, or returned as a ``DeviceArray``. ``stream``
says on which CUDA stream the kernels run. It is the address of a stream, an object that has this
address, or ``None`` for the default stream. The call returns before the kernels have finished. If
CUDA cannot be used, the call raises ``CudaUnavailableError``, whose message says what is missing.
"""
