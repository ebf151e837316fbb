// A stub libcuda.so.1: it has one device, whose memory is host memory, and runs no kernel.
//
// Functions that are not defined here succeed and do nothing. STUB_DRIVER_LOG=1 writes the calls that
// the tests check to stderr. With STUB_DRIVER_CAPTURING=1 every stream is being captured.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int set(const char *name) {
  const char *value = getenv(name);
  return value && atoi(value);
}

static void tell(const char *format, ...) {
  va_list rest;
  if (!set("STUB_DRIVER_LOG")) return;
  va_start(rest, format);
  vfprintf(stderr, format, rest);
  va_end(rest);
}

static void *made(void) {
  static uintptr_t last = 0x7f0000000000;
  return (void *)(last += 64);
}

static void *const context = (void *)0x1000;
static __thread void *current;

int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int *version) { return *version = 13000, 0; }
int cuDeviceGetCount(int *count) { return *count = 1, 0; }
int cuDeviceGet(int *device, int number) { return *device = number, 0; }
int cuDeviceGetName(char *name, int size, int device) { return strncpy(name, "Stub", size), 0; }
int cuDeviceGetUuid_v2(char *id, int device) { return memset(id, 1, 16), 0; }
int cuDeviceTotalMem_v2(size_t *size, int device) { return *size = (size_t)1 << 37, 0; }

int cuDeviceGetAttribute(int *value, int attribute, int device) {
  switch (attribute) {
    case 75: return *value = 9, 0;   // compute capability, major
    case 76: return *value = 0, 0;   // minor
    case 10: return *value = 32, 0;  // threads per warp
    case 16: return *value = 132, 0; // multiprocessors
    case 1: return *value = 1024, 0; // threads per block
    default: return *value = 1, 0;
  }
}

int cuDevicePrimaryCtxRetain(void **it, int device) { return *it = context, 0; }
int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) {
  return *flags = 0, *active = 1, 0;
}
int cuCtxGetCurrent(void **it) { return *it = current, 0; }
int cuCtxSetCurrent(void *it) { return current = it, 0; }
int cuCtxPushCurrent_v2(void *it) { return current = it, 0; }
int cuCtxPopCurrent_v2(void **it) { return *it = current, current = NULL, 0; }
int cuCtxGetDevice(int *device) { return *device = 0, current ? 0 : 201; }

int cuStreamCreate(void **stream, unsigned flags) { return *stream = made(), 0; }
int cuStreamCreateWithPriority(void **stream, unsigned flags, int priority) {
  return *stream = made(), 0;
}
int cuStreamGetCtx(void *stream, void **it) { return *it = context, 0; }
int cuStreamGetCtx_v2(void *stream, void **it, void **green) { return *it = context, *green = 0, 0; }
int cuStreamGetDevice(void *stream, int *device) { return *device = 0, 0; }
int cuStreamIsCapturing(void *stream, int *status) {
  return *status = set("STUB_DRIVER_CAPTURING"), 0;
}
int cuEventCreate(void **event, unsigned flags) { return *event = made(), 0; }
int cuEventElapsedTime(float *time, void *begun, void *ended) { return *time = 1.5f, 0; }
int cuEventElapsedTime_v2(float *time, void *begun, void *ended) { return *time = 1.5f, 0; }

static int allocate(uint64_t *address, size_t size, const char *from) {
  tell("allocated %zu %s\n", size, from);
  return *address = (uint64_t)aligned_alloc(256, (size + 256) / 256 * 256), 0;
}
int cuMemAlloc_v2(uint64_t *address, size_t size) { return allocate(address, size, "at once"); }
int cuMemAllocAsync(uint64_t *address, size_t size, void *stream) {
  return allocate(address, size, "for a graph");
}
int cuMemAllocFromPoolAsync(uint64_t *address, size_t size, void *pool, void *stream) {
  return allocate(address, size, "from the pool");
}
int cuMemFree_v2(uint64_t address) { return free((void *)address), 0; }
int cuMemFreeAsync(uint64_t address, void *stream) { return free((void *)address), 0; }
int cuMemcpyHtoD_v2(uint64_t to, const void *from, size_t size) {
  return memcpy((void *)to, from, size), 0;
}
int cuMemcpyDtoH_v2(void *to, uint64_t from, size_t size) {
  return memcpy(to, (void *)from, size), 0;
}
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t size, void *stream) {
  return memcpy((void *)to, from, size), 0;
}
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t size, void *stream) {
  return memcpy(to, (void *)from, size), 0;
}
int cuMemGetInfo_v2(size_t *free, size_t *total) { return *free = *total = (size_t)1 << 36, 0; }
int cuMemPoolGetAttribute(void *pool, int attribute, void *value) {
  return *(uint64_t *)value = 0, 0;
}
int cuDeviceGetDefaultMemPool(void **pool, int device) { return *pool = (void *)0x2000, 0; }
int cuDeviceGetMemPool(void **pool, int device) { return *pool = (void *)0x2000, 0; }
int cuMemGetMemPool(void **pool, void *where, int type) { return *pool = (void *)0x2000, 0; }

int cuPointerGetAttribute(void *value, int attribute, uint64_t address) {
  switch (attribute) {
    case 1: return *(void **)value = context, 0;
    case 2: return *(int *)value = 2, 0;              // memory of a device
    case 3: return *(uint64_t *)value = address, 0;
    default: return *(int *)value = 0, 0;
  }
}
int cuPointerGetAttributes(unsigned count, int *names, void **values, uint64_t address) {
  for (unsigned i = 0; i < count; i++) cuPointerGetAttribute(values[i], names[i], address);
  return 0;
}

int cuLibraryLoadData(void **library, const void *code, void *a, void *b, unsigned c, void *d,
                      void *e, unsigned f) {
  return *library = made(), 0;
}
int cuLibraryGetKernel(void **kernel, void *library, const char *name) {
  return *kernel = made(), 0;
}
int cuKernelGetFunction(void **function, void *kernel) { return *function = kernel, 0; }
int cuKernelGetLibrary(void **library, void *kernel) { return *library = made(), 0; }

int cuKernelSetAttribute(int name, int value, void *kernel, int device) {
  tell("attribute %d is %d\n", name, value);
  return 0;
}

struct launch {
  unsigned x, y, z, threads, threads_y, threads_z, shared;
  void *stream;
};
int cuLaunchKernelEx(const struct launch *it, void *kernel, void **arguments, void **more) {
  tell("launched %u %u %u of %u on %p\n", it->x, it->y, it->z, it->threads, it->stream);
  return 0;
}

int cuGetErrorName(int error, const char **text) { return *text = "STUB", 0; }
int cuGetErrorString(int error, const char **text) { return *text = "stub", 0; }

static int anything(void) { return 0; }

int cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags,
                        int *status) {
  const char *suffixes[] = {"_v3", "_v2", ""};
  char full[256];
  void *self = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
  // The newer one of these two functions has one more argument.
  int older = !strcmp(name, "cuStreamGetCtx") && version < 12050;
  *function = NULL;
  for (int i = older ? 2 : 0; i < 3 && !*function; i++) {
    snprintf(full, sizeof full, "%s%s", name, suffixes[i]);
    *function = dlsym(self, full);
  }
  if (!*function) *function = (void *)anything;
  if (status) *status = 0;
  return 0;
}
int cuGetProcAddress(const char *name, void **function, int version, uint64_t flags) {
  return cuGetProcAddress_v2(name, function, version, flags, NULL);
}
