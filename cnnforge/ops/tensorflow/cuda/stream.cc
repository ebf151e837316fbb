// Find the CUDA stream of a device of TensorFlow's. The C API only has TF_GetStream, which refuses
// devices that are not pluggable.
#include <cstdint>

#include "tensorflow/core/framework/device_base.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "xla/stream_executor/stream.h"
#include "xla/stream_executor/stream_executor.h"

// context: a TF_OpKernelContext. found: the CUstream and the number of its device.
// Returns 0, or 1 if the device has no CUDA stream.
extern "C" int32_t cnnforge_stream(void* context, int64_t* found) {
  auto* device = static_cast<tensorflow::OpKernelContext*>(context)->op_device_context();
  if (device == nullptr || device->IsPluggableDevice() || device->stream() == nullptr) return 1;
  void* stream = device->stream()->platform_specific_handle().stream;
  found[0] = reinterpret_cast<int64_t>(stream);
  found[1] = device->stream()->parent()->device_ordinal();
  return stream == nullptr;
}
