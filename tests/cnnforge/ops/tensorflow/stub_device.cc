// A TensorFlow device type, "STUB", with two devices in host memory, so the test can read their
// pointers. All work is done when a call returns.
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "tensorflow/c/experimental/stream_executor/stream_executor.h"

namespace {

struct Nothing {};
using Device = const SP_Device;
using Memory = SP_DeviceMemoryBase;

void ok(TF_Status* status) { TF_SetStatus(status, TF_OK, ""); }

void allocate(Device*, uint64_t size, int64_t, Memory* memory) {
  memory->struct_size = SP_DEVICE_MEMORY_BASE_STRUCT_SIZE;
  memory->opaque = aligned_alloc(256, (size + 255) / 256 * 256);
  memory->size = size;
}
void deallocate(Device*, Memory* memory) { free(memory->opaque); }
void* host_allocate(Device*, uint64_t size) { return aligned_alloc(64, (size + 63) / 64 * 64); }
void host_deallocate(Device*, void* memory) { free(memory); }
TF_Bool stats(Device*, SP_AllocatorStats*) { return 0; }
TF_Bool usage(Device*, int64_t* free, int64_t* total) {
  *free = *total = int64_t{1} << 30;
  return 1;
}

template <typename T>
T make() {
  return reinterpret_cast<T>(new Nothing);
}
template <typename T>
void drop(Device*, T thing) {
  delete reinterpret_cast<Nothing*>(thing);
}
void create_stream(Device*, SP_Stream* stream, TF_Status* status) {
  *stream = make<SP_Stream>();
  ok(status);
}
void depend(Device*, SP_Stream, SP_Stream, TF_Status* status) { ok(status); }
void on_stream(Device*, SP_Stream, TF_Status* status) { ok(status); }
void create_event(Device*, SP_Event* event, TF_Status* status) {
  *event = make<SP_Event>();
  ok(status);
}
SE_EventStatus event_status(Device*, SP_Event) { return SE_EVENT_COMPLETE; }
void stream_event(Device*, SP_Stream, SP_Event, TF_Status* status) { ok(status); }
void on_event(Device*, SP_Event, TF_Status* status) { ok(status); }
void create_timer(Device*, SP_Timer* timer, TF_Status* status) {
  *timer = make<SP_Timer>();
  ok(status);
}
void on_timer(Device*, SP_Stream, SP_Timer, TF_Status* status) { ok(status); }

void copy(void* target, const void* source, uint64_t size, TF_Status* status) {
  memcpy(target, source, size);
  ok(status);
}
void dtoh(Device*, SP_Stream, void* to, const Memory* from, uint64_t size, TF_Status* status) {
  copy(to, from->opaque, size, status);
}
void htod(Device*, SP_Stream, Memory* to, const void* from, uint64_t size, TF_Status* status) {
  copy(to->opaque, from, size, status);
}
void dtod(Device*, SP_Stream, Memory* to, const Memory* from, uint64_t size, TF_Status* status) {
  copy(to->opaque, from->opaque, size, status);
}
void sync_dtoh(Device*, void* to, const Memory* from, uint64_t size, TF_Status* status) {
  copy(to, from->opaque, size, status);
}
void sync_htod(Device*, Memory* to, const void* from, uint64_t size, TF_Status* status) {
  copy(to->opaque, from, size, status);
}
void sync_dtod(Device*, Memory* to, const Memory* from, uint64_t size, TF_Status* status) {
  copy(to->opaque, from->opaque, size, status);
}
void all(Device*, TF_Status* status) { ok(status); }
void zero(Device*, SP_Stream, Memory* to, uint64_t size, TF_Status* status) {
  memset(to->opaque, 0, size);
  ok(status);
}
void fill(Device*, SP_Stream, Memory* to, uint8_t pattern, uint64_t size, TF_Status* status) {
  memset(to->opaque, pattern, size);
  ok(status);
}
void fill32(Device*, SP_Stream, Memory* to, uint32_t pattern, uint64_t size, TF_Status* status) {
  for (uint64_t i = 0; i < size / 4; ++i) static_cast<uint32_t*>(to->opaque)[i] = pattern;
  ok(status);
}
TF_Bool host_callback(Device*, SP_Stream, SE_StatusCallbackFn callback, void* argument) {
  TF_Status* status = TF_NewStatus();
  callback(argument, status);
  TF_DeleteStatus(status);
  return 1;
}

uint64_t nanoseconds(SP_Timer) { return 0; }
int32_t numa_node(Device*) { return -1; }
int64_t bandwidth(Device*) { return -1; }
double gflops(Device*) { return -1; }

void count(const SP_Platform*, int* devices, TF_Status* status) {
  *devices = 2;
  ok(status);
}
void create_device(const SP_Platform*, SE_CreateDeviceParams* params, TF_Status* status) {
  params->device->struct_size = SP_DEVICE_STRUCT_SIZE;
  params->device->ordinal = params->ordinal;
  params->device->hardware_name = "stub";
  ok(status);
}
void destroy_device(const SP_Platform*, SP_Device*) {}
void create_device_fns(const SP_Platform*, SE_CreateDeviceFnsParams* params, TF_Status* status) {
  SP_DeviceFns* it = params->device_fns;
  it->struct_size = SP_DEVICE_FNS_STRUCT_SIZE;
  it->get_numa_node = numa_node;
  it->get_memory_bandwidth = bandwidth;
  it->get_gflops = gflops;
  ok(status);
}
void destroy_device_fns(const SP_Platform*, SP_DeviceFns*) {}
void create_executor(const SP_Platform*, SE_CreateStreamExecutorParams* params,
                     TF_Status* status) {
  SP_StreamExecutor* it = params->stream_executor;
  it->struct_size = SP_STREAMEXECUTOR_STRUCT_SIZE;
  it->allocate = allocate;
  it->deallocate = deallocate;
  it->host_memory_allocate = host_allocate;
  it->host_memory_deallocate = host_deallocate;
  it->get_allocator_stats = stats;
  it->device_memory_usage = usage;
  it->create_stream = create_stream;
  it->destroy_stream = drop<SP_Stream>;
  it->create_stream_dependency = depend;
  it->get_stream_status = on_stream;
  it->create_event = create_event;
  it->destroy_event = drop<SP_Event>;
  it->get_event_status = event_status;
  it->record_event = stream_event;
  it->wait_for_event = stream_event;
  it->create_timer = create_timer;
  it->destroy_timer = drop<SP_Timer>;
  it->start_timer = on_timer;
  it->stop_timer = on_timer;
  it->memcpy_dtoh = dtoh;
  it->memcpy_htod = htod;
  it->memcpy_dtod = dtod;
  it->sync_memcpy_dtoh = sync_dtoh;
  it->sync_memcpy_htod = sync_htod;
  it->sync_memcpy_dtod = sync_dtod;
  it->block_host_for_event = on_event;
  it->block_host_until_done = on_stream;
  it->synchronize_all_activity = all;
  it->mem_zero = zero;
  it->memset = fill;
  it->memset32 = fill32;
  it->host_callback = host_callback;
  ok(status);
}
void destroy_executor(const SP_Platform*, SP_StreamExecutor*) {}
void create_timer_fns(const SP_Platform*, SP_TimerFns* it, TF_Status* status) {
  it->struct_size = SP_TIMER_FNS_STRUCT_SIZE;
  it->nanoseconds = nanoseconds;
  ok(status);
}
void destroy_timer_fns(const SP_Platform*, SP_TimerFns*) {}
void destroy_platform(SP_Platform*) {}
void destroy_platform_fns(SP_PlatformFns*) {}

}  // namespace

extern "C" void SE_InitPlugin(SE_PlatformRegistrationParams* params, TF_Status* status) {
  params->platform->struct_size = SP_PLATFORM_STRUCT_SIZE;
  params->platform->name = "STUB_PLATFORM";
  params->platform->type = "STUB";
  params->platform->use_bfc_allocator = 1;
  SP_PlatformFns* it = params->platform_fns;
  it->struct_size = SP_PLATFORM_FNS_STRUCT_SIZE;
  it->get_device_count = count;
  it->create_device = create_device;
  it->destroy_device = destroy_device;
  it->create_device_fns = create_device_fns;
  it->destroy_device_fns = destroy_device_fns;
  it->create_stream_executor = create_executor;
  it->destroy_stream_executor = destroy_executor;
  it->create_timer_fns = create_timer_fns;
  it->destroy_timer_fns = destroy_timer_fns;
  params->destroy_platform = destroy_platform;
  params->destroy_platform_fns = destroy_platform_fns;
  ok(status);
}
