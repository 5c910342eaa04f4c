//! The same operations as functions of [TVM FFI](https://tvm.apache.org/ffi/): one C symbol each, `__tvm_ffi_moray_<name>`, tensors by
//! DLPack. `docs/tvm-ffi.md` has their arguments.
//!
//! What stands here of TVM FFI's ABI are the public C structures of `tvm/ffi/c_api.h` and `dlpack.h`. Nothing of it is linked: the
//! function that takes an error is looked up in the process, which has TVM FFI's library when it calls these.

mod attention;
mod by_input;
mod call;
mod cuda;
mod functions;
mod numbered;
mod process;
mod raise;
mod sparse_mlp;
mod tensor;
mod value;

use crate::arguments::give;
use crate::status::{Outcome, guard};
use call::Arguments;
use raise::raise;
use std::ffi::{c_int, c_void};
use value::TvmFfiAny;

/// Exports functions: by which symbol, and what is called with the arguments and gives an integer, or nothing.
macro_rules! export {
    ($($symbol:literal $module:ident::$name:ident),* $(,)?) => { $(
        #[unsafe(export_name = $symbol)]
        unsafe extern "C" fn $name(_: *mut c_void, args: *const TvmFfiAny, count: i32, result: *mut TvmFfiAny) -> c_int {
            // SAFETY: the caller's, as TVM FFI's calling convention says.
            unsafe { run(concat!("moray_", stringify!($name)), args, count, result, $module::$name) }
        }
    )* };
}

export! {
    "__tvm_ffi_moray_abi_version" functions::abi_version,
    "__tvm_ffi_moray_section_bytes" functions::section_bytes,
    "__tvm_ffi_moray_pack" functions::pack,
    "__tvm_ffi_moray_linear" functions::linear,
    "__tvm_ffi_moray_cuda_linear_scratch" cuda::cuda_linear_scratch,
    "__tvm_ffi_moray_cuda_linear" cuda::cuda_linear,
    "__tvm_ffi_moray_sparse_mlp_create" sparse_mlp::sparse_mlp_create,
    "__tvm_ffi_moray_sparse_mlp_create_quantized" sparse_mlp::sparse_mlp_create_quantized,
    "__tvm_ffi_moray_sparse_mlp" sparse_mlp::sparse_mlp,
    "__tvm_ffi_moray_sparse_mlp_destroy" sparse_mlp::sparse_mlp_destroy,
    "__tvm_ffi_moray_sparse_mlp_rows_sizes" sparse_mlp::sparse_mlp_rows_sizes,
    "__tvm_ffi_moray_sparse_mlp_rows" sparse_mlp::sparse_mlp_rows,
    "__tvm_ffi_moray_cuda_sparse_mlp_scratch" cuda::cuda_sparse_mlp_scratch,
    "__tvm_ffi_moray_cuda_sparse_mlp" cuda::cuda_sparse_mlp,
    "__tvm_ffi_moray_attention_create" attention::attention_create,
    "__tvm_ffi_moray_write_kv" attention::write_kv,
    "__tvm_ffi_moray_attend" attention::attend,
    "__tvm_ffi_moray_attention_destroy" attention::attention_destroy,
    "__tvm_ffi_moray_by_input_create" by_input::by_input_create,
    "__tvm_ffi_moray_by_input_create_quantized" by_input::by_input_create_quantized,
    "__tvm_ffi_moray_by_input" by_input::by_input,
    "__tvm_ffi_moray_by_input_destroy" by_input::by_input_destroy,
    "__tvm_ffi_moray_by_input_rows_sizes" by_input::by_input_rows_sizes,
    "__tvm_ffi_moray_by_input_rows" by_input::by_input_rows,
    "__tvm_ffi_moray_cuda_load_kernels" cuda::cuda_load_kernels,
    "__tvm_ffi_moray_cuda_by_input" cuda::cuda_by_input,
    "__tvm_ffi_moray_cuda_by_input_four_bit_scratch" cuda::cuda_by_input_four_bit_scratch,
    "__tvm_ffi_moray_cuda_by_input_four_bit" cuda::cuda_by_input_four_bit,
    "__tvm_ffi_moray_cuda_write_kv" cuda::cuda_write_kv,
    "__tvm_ffi_moray_cuda_attend_scratch" cuda::cuda_attend_scratch,
    "__tvm_ffi_moray_cuda_attend" cuda::cuda_attend,
}

/// Runs a function on the arguments of a call; what it refuses is raised.
///
/// # Safety
/// `args` has `count` values that are valid during the call, `result` is memory for one.
unsafe fn run(
    name: &'static str,
    args: *const TvmFfiAny,
    count: i32,
    result: *mut TvmFfiAny,
    function: unsafe fn(&mut Arguments<'_>) -> Outcome<Option<i64>>,
) -> c_int {
    let status = guard(|| {
        let count = usize::try_from(count).unwrap_or(0);
        // SAFETY: the caller's.
        let values = if count == 0 { &[][..] } else { unsafe { std::slice::from_raw_parts(args, count) } };
        let mut arguments = Arguments::new(name, values);
        // SAFETY: the caller's.
        let value = unsafe { function(&mut arguments)? };
        // SAFETY: the caller's.
        unsafe { give("result", result, TvmFfiAny::of(value)) }
    });
    raise(status)
}
