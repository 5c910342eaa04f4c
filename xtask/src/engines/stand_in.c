/* What stands in for cuBLAS, cuRAND and NVRTC where candle links them: it makes handles of both for every device. Nothing is computed; a
   program that asks for it is told that it is not supported. */

enum { NOT_SUPPORTED_BY_CUBLAS = 15 };

int cublasCreate_v2(void **handle) { *handle = (void *)1; return 0; }
int cublasDestroy_v2(void *handle) { (void)handle; return 0; }
int cublasSetStream_v2(void *handle, void *stream) { (void)handle; (void)stream; return 0; }
int cublasGemmStridedBatchedEx(void) { return NOT_SUPPORTED_BY_CUBLAS; }
int cublasDgemmStridedBatched(void) { return NOT_SUPPORTED_BY_CUBLAS; }
int cublasHgemmStridedBatched(void) { return NOT_SUPPORTED_BY_CUBLAS; }
int cublasSgemmStridedBatched(void) { return NOT_SUPPORTED_BY_CUBLAS; }

int curandCreateGenerator(void **generator, int kind) { (void)kind; *generator = (void *)1; return 0; }
int curandDestroyGenerator(void *generator) { (void)generator; return 0; }
int curandSetPseudoRandomGeneratorSeed(void *generator, unsigned long long seed) { (void)generator; (void)seed; return 0; }
int curandSetStream(void *generator, void *stream) { (void)generator; (void)stream; return 0; }
