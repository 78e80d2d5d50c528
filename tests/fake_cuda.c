/* What does a CUDA driver answer? A fake libcuda.so.1 for tests, written without NVIDIA's headers.
 *
 * It only forwards: every driver function asks the Python side through one callback, fake_cuda_answer, which gets the
 * function's name and its arguments as 64-bit words and returns the CUresult. So the behaviour is written once, in
 * fake_cuda.py, and this file is the binary interface: which symbols there are, and how their arguments are passed.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef int (*Answer)(const char *function, const uint64_t *words);
static Answer answer;

void fake_cuda_install(Answer callback) { answer = callback; }

static int ask(const char *function, const uint64_t *words) {
    return answer ? answer(function, words) : 3;    /* CUDA_ERROR_NOT_INITIALIZED */
}

#define W(x) ((uint64_t)(uintptr_t)(x))
#define ASK(...) { const uint64_t words[] = {__VA_ARGS__}; return ask(__func__, words); }

int cuInit(unsigned flags) ASK(flags)
int cuDriverGetVersion(int *version) ASK(W(version))
int cuDeviceGetCount(int *count) ASK(W(count))
int cuDeviceGet(int *device, int index) ASK(W(device), (uint64_t)(int64_t)index)
int cuDeviceGetName(char *name, int size, int device) ASK(W(name), (uint64_t)size, (uint64_t)device)
int cuDeviceGetAttribute(int *value, int attribute, int device) ASK(W(value), (uint64_t)attribute, (uint64_t)device)
int cuDeviceTotalMem_v2(size_t *bytes, int device) ASK(W(bytes), (uint64_t)device)
int cuDevicePrimaryCtxRetain(void **context, int device) ASK(W(context), (uint64_t)device)
int cuDevicePrimaryCtxRelease_v2(int device) ASK((uint64_t)device)
int cuCtxSetCurrent(void *context) ASK(W(context))
int cuCtxSynchronize(void) ASK(0)
int cuMemGetInfo_v2(size_t *free_bytes, size_t *total) ASK(W(free_bytes), W(total))
int cuMemAlloc_v2(uint64_t *address, size_t bytes) ASK(W(address), bytes)
int cuMemFree_v2(uint64_t address) ASK(address)
int cuMemHostAlloc(void **address, size_t bytes, unsigned flags) ASK(W(address), bytes, flags)
int cuMemFreeHost(void *address) ASK(W(address))
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *stream) ASK(to, W(from), bytes, W(stream))
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *stream) ASK(W(to), from, bytes, W(stream))
int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void *stream) ASK(to, from, bytes, W(stream))
int cuMemcpyAsync(uint64_t to, uint64_t from, size_t bytes, void *stream) ASK(to, from, bytes, W(stream))
int cuMemsetD8Async(uint64_t to, unsigned char byte, size_t bytes, void *stream) ASK(to, byte, bytes, W(stream))
int cuModuleLoadData(void **module, const void *image) ASK(W(module), W(image))
int cuModuleUnload(void *module) ASK(W(module))
int cuModuleGetFunction(void **function, void *module, const char *name) ASK(W(function), W(module), W(name))
int cuFuncGetAttribute(int *value, int attribute, void *function) ASK(W(value), (uint64_t)attribute, W(function))
int cuFuncSetAttribute(void *function, int attribute, int value)
    ASK(W(function), (uint64_t)attribute, (uint64_t)(int64_t)value)
int cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, void *function, int threads, size_t shared)
    ASK(W(blocks), W(function), (uint64_t)threads, shared)
int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void *stream, void **arguments, void **extra)
    ASK(W(function), gx, gy, gz, bx, by, bz, shared, W(stream), W(arguments), W(extra))
int cuStreamCreate(void **stream, unsigned flags) ASK(W(stream), flags)
int cuStreamDestroy_v2(void *stream) ASK(W(stream))
int cuStreamSynchronize(void *stream) ASK(W(stream))
int cuStreamWaitEvent(void *stream, void *event, unsigned flags) ASK(W(stream), W(event), flags)
int cuStreamBeginCapture_v2(void *stream, int mode) ASK(W(stream), (uint64_t)mode)
int cuStreamEndCapture(void *stream, void **graph) ASK(W(stream), W(graph))
int cuGraphInstantiateWithFlags(void **made, void *graph, unsigned long long flags) ASK(W(made), W(graph), flags)
int cuGraphUpload(void *made, void *stream) ASK(W(made), W(stream))
int cuGraphLaunch(void *made, void *stream) ASK(W(made), W(stream))
int cuGraphExecDestroy(void *made) ASK(W(made))
int cuGraphDestroy(void *graph) ASK(W(graph))
int cuEventCreate(void **event, unsigned flags) ASK(W(event), flags)
int cuEventDestroy_v2(void *event) ASK(W(event))
int cuEventRecord(void *event, void *stream) ASK(W(event), W(stream))
int cuEventSynchronize(void *event) ASK(W(event))
int cuEventElapsedTime(float *milliseconds, void *from, void *to) ASK(W(milliseconds), W(from), W(to))

/* The names of CUresult that tests inject; these two answer before cuInit, too. */
static const struct { int code; const char *name, *words; } RESULTS[] = {
    {1, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {3, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {46, "CUDA_ERROR_DEVICE_UNAVAILABLE", "CUDA-capable device(s) is/are busy or unavailable"},
    {100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {101, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {200, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {201, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {209, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"},
    {400, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {500, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {600, "CUDA_ERROR_NOT_READY", "device not ready"},
    {700, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {801, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "system has unsupported display driver / cuda driver combination"},
    {999, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

static int result(int code) {
    for (int i = 0; i < (int)(sizeof RESULTS / sizeof RESULTS[0]); i++)
        if (RESULTS[i].code == code) return i;
    return -1;
}

int cuGetErrorName(int code, const char **text) {
    int i = result(code);
    *text = i < 0 ? NULL : RESULTS[i].name;
    return i < 0 ? 1 : 0;
}

int cuGetErrorString(int code, const char **text) {
    int i = result(code);
    *text = i < 0 ? NULL : RESULTS[i].words;
    return i < 0 ? 1 : 0;
}
