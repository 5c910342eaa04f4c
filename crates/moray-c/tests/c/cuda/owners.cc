// A device and its owner from C++, and a refusal as an exception.
#include <cuda.h>
#include <moray.hpp>

#include <cstdio>
#include <cstring>

int main() {
    CUdevice gpu;
    CUcontext context;
    if (cuInit(0) || cuDeviceGet(&gpu, 0) || cuDevicePrimaryCtxRetain(&context, gpu)) return 1;
    {
        auto cuda = moray::make<MorayCuda>(moray_cuda_create, context);
        MorayArch arch;
        uint32_t multiprocessors;
        moray::check(moray_cuda_describe(cuda.get(), &arch, &multiprocessors));
        if (arch < MORAY_ARCH_CUDA + 80 || multiprocessors == 0) return 2;
        MorayCudaRmsNorm call{};
        call.struct_size = sizeof call;
        call.m = call.heads = 1;
        call.k = call.x_stride = call.y_stride = 6;
        try {
            moray::check(moray_cuda_rms_norm(cuda.get(), nullptr, &call));
            return 3;
        } catch (const moray::Error &error) {
            if (error.status != MORAY_STATUS_SHAPE || !std::strstr(error.what(), "expected a multiple of 4, got 6")) return 4;
        }
    }
    // the context is still there
    if (cuCtxSetCurrent(context) || cuDevicePrimaryCtxRelease(gpu)) return 5;
    std::puts("cuda owners: ok");
}
