/* What the programs share of a device: the primary context, a stream, memory. */
#ifndef DEVICE_H
#define DEVICE_H
#include "../check.h"
#include <cuda.h>

#define DRIVER(call) CHECK((call) == CUDA_SUCCESS)

static CUdevice device;
static CUcontext context;
static CUstream stream;
static MorayCuda *cuda;

static void open_device(void) {
    DRIVER(cuInit(0));
    DRIVER(cuDeviceGet(&device, 0));
    DRIVER(cuDevicePrimaryCtxRetain(&context, device));
    DRIVER(cuCtxSetCurrent(context));
    DRIVER(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    OK(moray_cuda_create(context, &cuda));
}

static void close_device(void) {
    moray_cuda_destroy(cuda);
    DRIVER(cuStreamDestroy(stream));
    DRIVER(cuDevicePrimaryCtxRelease(device));
}

/* Device memory that holds these bytes, or zeros for null. */
static MorayBytesMut upload(const void *from, size_t bytes) {
    CUdeviceptr address = 0;
    if (bytes == 0) return (MorayBytesMut){NULL, 0};
    DRIVER(cuMemAlloc(&address, bytes));
    if (from)
        DRIVER(cuMemcpyHtoD(address, from, bytes));
    else
        DRIVER(cuMemsetD8(address, 0, bytes));
    return (MorayBytesMut){(void *)(uintptr_t)address, bytes};
}

static MorayBytes lent(MorayBytesMut memory) { return (MorayBytes){memory.data, memory.bytes}; }

static inline void fill(MorayBytesMut to, const void *from) { DRIVER(cuMemcpyHtoD((uintptr_t)to.data, from, to.bytes)); }

static void download(void *to, MorayBytesMut from) {
    DRIVER(cuStreamSynchronize(stream));
    DRIVER(cuMemcpyDtoH(to, (uintptr_t)from.data, from.bytes));
}

static inline void release(MorayBytesMut memory) {
    if (memory.data) DRIVER(cuMemFree((uintptr_t)memory.data));
}

/* The address, so many bytes on. */
static inline void *past(const void *address, size_t bytes) { return (void *)((uintptr_t)address + bytes); }

/* Puts what `calls` puts on the stream into a graph, and runs that. */
static inline void replay(void (*calls)(void *), void *arguments) {
    CUgraph graph;
    CUgraphExec run;
    DRIVER(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    calls(arguments);
    DRIVER(cuStreamEndCapture(stream, &graph));
    DRIVER(cuGraphInstantiate(&run, graph, 0));
    DRIVER(cuGraphLaunch(run, stream));
    DRIVER(cuStreamSynchronize(stream));
    DRIVER(cuGraphExecDestroy(run));
    DRIVER(cuGraphDestroy(graph));
}
#endif
