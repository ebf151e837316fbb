// Find the CUDA stream on which TensorFlow computes an op. TensorFlow's C API has only TF_GetStream,
// which returns an error for devices that are not pluggable.
#include <cstdint>

#include "tensorflow/core/framework/device_base.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "xla/stream_executor/stream.h"
#include "xla/stream_executor/stream_executor.h"

// context: The TF_OpKernelContext of the op.
// found: Two words for the result: the CUstream, and the index of its device.
// Returns 0, or 1 if the device has no CUDA stream.
extern "C" int32_t cnnforge_stream(void* context, int64_t* found) {
  auto* device = static_cast<tensorflow::OpKernelContext*>(context)->op_device_context();
  if (device == nullptr || device->IsPluggableDevice() || device->stream() == nullptr) return 1;
  void* stream = device->stream()->platform_specific_handle().stream;
  found[0] = reinterpret_cast<int64_t>(stream);
  found[1] = device->stream()->parent()->device_ordinal();
  return stream == nullptr;
}
