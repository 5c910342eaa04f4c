//! The baseline of the benches on a device: NVIDIA's dense products in f16 and int8, where the library is found.
#![allow(dead_code)] // each bench uses its part

use std::ffi::c_void;

use crate::common::numbers;
use crate::cuda::{Bench, repeated};
use half::f16;
use moray::Result;
use moray::device::cudarc::cublaslt::result::{self, CublasError};
use moray::device::cudarc::cublaslt::{CudaBlasLT, Matmul, MatmulConfig, MatmulShared, sys};
use moray::device::cudarc::driver::{CudaSlice, DevicePtr, DevicePtrMut};

/// Values that a matrix repeats; a prime, so that rows differ.
const BLOCK: usize = 1_000_003;

/// Room for the library's partial sums.
const WORKSPACE_BYTES: usize = 32 << 20;

/// The library, loaded.
pub struct CublasLt(CudaBlasLT);

impl CublasLt {
    /// Loads the library, or says that it is not there.
    pub fn open(bench: &Bench) -> Option<CublasLt> {
        // SAFETY: loading NVIDIA's library runs nothing but its own initialisers.
        if !unsafe { sys::is_culib_present() } {
            println!("cuBLASLt: the library is not on this machine, so there is no baseline");
            return None;
        }
        match CudaBlasLT::new(bench.device.stream().clone()) {
            Ok(library) => Some(CublasLt(library)),
            Err(error) => {
                println!("cuBLASLt: expected the library to start, got {error}; there is no baseline");
                None
            }
        }
    }

    /// Seconds of y\[M,N\] = x\[M,K\] · w\[N,K\]ᵀ in f16 with f32 sums, cold.
    pub fn f16_seconds(&self, bench: &Bench, m: usize, n: usize, k: usize) -> Result<Option<f64>> {
        let block: Vec<f16> = numbers(BLOCK, 1).into_iter().map(f16::from_f32).collect();
        let weights = self.rotated(bench, &block, n * k)?;
        let x = bench.device.upload(&repeated(&block, m * k))?;
        let mut y = bench.device.zeros::<f16>(m * n)?;
        // column-major to the library: w is [K, N] turned, x [K, M], y [N, M]
        let config = MatmulConfig {
            transa: true,
            transb: false,
            transc: false,
            m: n as u64,
            n: m as u64,
            k: k as u64,
            alpha: 1.0,
            lda: k as i64,
            ldb: k as i64,
            beta: 0.0,
            ldc: n as i64,
            stride_a: None,
            stride_b: None,
            stride_c: None,
            stride_bias: None,
            batch_size: None,
        };
        // SAFETY: the three buffers have the elements that the configuration speaks of.
        let mut call = |w: &CudaSlice<f16>| unsafe { self.0.matmul(config, w, &x, &mut y, None, None) };
        seconds(bench, &format!("f16, m{m}"), &weights, &mut call)
    }

    /// The same in int8 with int32 sums.
    pub fn int8_seconds(&self, bench: &Bench, m: usize, n: usize, k: usize) -> Result<Option<f64>> {
        let block: Vec<i8> = numbers(BLOCK, 2).into_iter().map(|v| (v * 127.0) as i8).collect();
        let weights = self.rotated(bench, &block, n * k)?;
        let x = bench.device.upload(&repeated(&block, m * k))?;
        let mut y = bench.device.zeros::<i32>(m * n)?;
        let workspace = bench.device.zeros::<u8>(WORKSPACE_BYTES)?;
        let plan = match Int8Plan::new(*self.0.handle(), m, n, k) {
            Ok(plan) => plan,
            Err(error) => {
                println!("cuBLASLt int8, m{m}: {error}");
                return Ok(None);
            }
        };
        let stream = bench.device.stream();
        let mut call = |w: &CudaSlice<i8>| {
            let (w, x) = (w.device_ptr(stream).0, x.device_ptr(stream).0);
            let (y, workspace) = (y.device_ptr_mut(stream).0, workspace.device_ptr(stream).0);
            // SAFETY: the addresses are of w [N, K], x [M, K], y [M, N] and a workspace of the size that the plan was made for,
            // all of which outlive the graph's replays below.
            unsafe { plan.run(*self.0.handle(), [w, x, y, workspace], stream.cu_stream().cast()) }
        };
        seconds(bench, &format!("int8, m{m}"), &weights, &mut call)
    }

    fn rotated<T: moray::device::cudarc::driver::DeviceRepr + Clone>(
        &self,
        bench: &Bench,
        block: &[T],
        elems: usize,
    ) -> Result<Vec<CudaSlice<T>>> {
        let host = repeated(block, elems);
        (0..bench.copies(elems * size_of::<T>())).map(|_| bench.device.upload(&host)).collect()
    }
}

/// Seconds of a product that takes these weights in turn; none, and a line that says why, where its first call fails.
fn seconds<T>(
    bench: &Bench,
    what: &str,
    weights: &[CudaSlice<T>],
    call: &mut dyn FnMut(&CudaSlice<T>) -> std::result::Result<(), CublasError>,
) -> Result<Option<f64>> {
    if let Err(error) = call(&weights[0]) {
        println!("cuBLASLt {what}: {error}");
        return Ok(None);
    }
    let seconds = bench.seconds(weights.len(), |i| {
        call(&weights[i]).expect("what ran once runs again");
        Ok(())
    });
    seconds.map(Some)
}

/// An int8 product of one shape; cudarc's own form of it knows floats only.
struct Int8Plan {
    description: sys::cublasLtMatmulDesc_t,
    /// Of w, x and y.
    layouts: [sys::cublasLtMatrixLayout_t; 3],
    algorithm: sys::cublasLtMatmulAlgo_t,
}

impl Int8Plan {
    fn new(handle: sys::cublasLtHandle_t, m: usize, n: usize, k: usize) -> std::result::Result<Int8Plan, CublasError> {
        use sys::cudaDataType_t::{CUDA_R_8I, CUDA_R_32I};
        let layout = |kind, rows: usize, columns: usize| {
            result::create_matrix_layout(kind, rows as u64, columns as u64, rows as i64)
        };
        let layouts = [layout(CUDA_R_8I, k, n)?, layout(CUDA_R_8I, k, m)?, layout(CUDA_R_32I, n, m)?];
        let description = result::create_matmul_desc(sys::cublasComputeType_t::CUBLAS_COMPUTE_32I, CUDA_R_32I)?;
        let preference = result::create_matmul_pref()?;
        let (transposed, bytes) = (1i32, WORKSPACE_BYTES);
        // SAFETY: each value outlives its call and has the size that is named; the handles were made above.
        let heuristic = unsafe {
            result::set_matmul_desc_attribute(
                description,
                sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA,
                (&raw const transposed).cast(),
                size_of::<i32>(),
            )?;
            result::set_matmul_pref_attribute(
                preference,
                sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                (&raw const bytes).cast(),
                size_of::<usize>(),
            )?;
            let [w, x, y] = layouts;
            let found = result::get_matmul_algo_heuristic(handle, description, w, x, y, y, preference);
            result::destroy_matmul_pref(preference)?;
            found?
        };
        Ok(Int8Plan { description, layouts, algorithm: heuristic.algo })
    }

    /// # Safety
    /// `buffers` are w \[N, K\], x \[M, K\], y \[M, N\] and the workspace on the device of `handle` and `stream`.
    unsafe fn run(
        &self,
        handle: sys::cublasLtHandle_t,
        [w, x, y, workspace]: [u64; 4],
        stream: sys::cudaStream_t,
    ) -> std::result::Result<(), CublasError> {
        let (alpha, beta) = (1i32, 0i32);
        let (w, x, y) = (w as *const c_void, x as *const c_void, y as *mut c_void);
        let [of_w, of_x, of_y] = self.layouts;
        // SAFETY: the caller's; alpha and beta are int32, as the description's scale type says.
        unsafe {
            result::matmul(
                handle,
                self.description,
                (&raw const alpha).cast(),
                (&raw const beta).cast(),
                w,
                of_w,
                x,
                of_x,
                y,
                of_y,
                y,
                of_y,
                &raw const self.algorithm,
                workspace as *mut c_void,
                WORKSPACE_BYTES,
                stream,
            )
        }
    }
}

impl Drop for Int8Plan {
    fn drop(&mut self) {
        // SAFETY: the handles were made by `new` and are destroyed once.
        unsafe {
            for layout in self.layouts {
                let _ = result::destroy_matrix_layout(layout);
            }
            let _ = result::destroy_matmul_desc(self.description);
        }
    }
}
