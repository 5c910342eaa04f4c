/* Without CUDA in the library, or without a driver, a device is refused in words. */
#include "check.h"

int main(void) {
    static char context;
    MorayCuda *cuda = NULL;
    MorayStatus status = moray_cuda_create((struct CUctx_st *)&context, &cuda);
    CHECK(status == MORAY_STATUS_KERNELS_NOT_BUILT || status == MORAY_STATUS_DRIVER_ABSENT);
    CHECK(cuda == NULL && strlen(moray_last_error()) > 20);
    MorayCudaLinear call = {0};
    size_t bytes;
    REFUSED(MORAY_STATUS_NULL, "cuda: expected an address, got null", moray_cuda_linear(cuda, NULL, &call));
    REFUSED(MORAY_STATUS_NULL, "cuda: expected an address, got null", moray_cuda_linear_prepare(cuda, &call, &bytes));
    moray_cuda_destroy(cuda);
    MorayQuery query = {sizeof query, MORAY_OP_LINEAR, {4, 0, 0, 0}, MORAY_F32, MORAY_ARCH_CUDA + 80};
    MoraySupport answer;
    OK(moray_supports(&query, &answer));
    CHECK((answer.supported == 0) == (status == MORAY_STATUS_KERNELS_NOT_BUILT) && strlen(answer.words) > 20);
    puts("no device: ok");
    return 0;
}
