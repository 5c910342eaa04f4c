//! Devices, contexts and memory as a cudarc program sees them.

mod common;

use common::{code, driver_lines, open, under_simcuda};
use cudarc::driver::{CudaContext, DriverError, result, sys};
use sys::CUdevice_attribute_enum as Attribute;
use sys::CUresult as Code;

#[test]
fn device_matches_the_capability_asked_for() {
    for arch in ["7.5", "8.0", "8.6", "8.9", "9.0", "12.0"] {
        under_simcuda("device_matches_the_capability_asked_for", &[("SIMCUDA_ARCH", arch)], || {
            let arch = std::env::var("SIMCUDA_ARCH").expect("set by the parent");
            // shared KiB of a block, threads of a multiprocessor, MiB of cache
            let (capability, shared_kib, clusters, threads, cache) = match arch.as_str() {
                "7.5" => ((7, 5), 64, 0, 1024, 4),
                "8.0" => ((8, 0), 163, 0, 2048, 40),
                "8.6" => ((8, 6), 99, 0, 1536, 6),
                "8.9" => ((8, 9), 99, 0, 1536, 72),
                "9.0" => ((9, 0), 227, 1, 2048, 50),
                _ => ((12, 0), 99, 1, 1536, 96),
            };
            let (context, _) = open();
            assert_eq!(CudaContext::device_count().expect("a count"), 1);
            assert_eq!(context.compute_capability().expect("a capability"), capability);
            assert_eq!(context.name().expect("a name"), format!("simcuda {arch}"));
            let attribute = |number| context.attribute(number).expect("an attribute");
            assert_eq!(attribute(Attribute::CU_DEVICE_ATTRIBUTE_WARP_SIZE), 32);
            assert_eq!(attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT), 16);
            assert_eq!(attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN), shared_kib * 1024);
            assert_eq!(attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR), threads);
            assert_eq!(attribute(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE), cache << 20);
            assert_eq!(attribute(Attribute::CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH), clusters);
            assert_eq!(attribute(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED), 1);
            assert_eq!(code(CudaContext::new(1)), Code::CUDA_ERROR_INVALID_DEVICE);
        });
    }
}

#[test]
fn multiprocessors_match_those_asked_for() {
    under_simcuda("multiprocessors_match_those_asked_for", &[("SIMCUDA_SMS", "108")], || {
        let (context, _) = open();
        let count = context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT).expect("an attribute");
        assert_eq!(count, 108);
    });
}

#[test]
fn wrong_setting_matches_invalid_value_and_names_the_variable() {
    for (name, value) in [
        ("SIMCUDA_ARCH", "7.0"),
        ("SIMCUDA_DRIVER_VERSION", "13060"),
        ("SIMCUDA_ORDER", "sometimes"),
        ("SIMCUDA_SMS", "0"),
        ("SIMCUDA_BLOCKS", "oldest"),
        ("SIMCUDA_MMA", "cut"),
        ("SIMCUDA_SAMPLE", "gemm"),
        ("SIMCUDA_MEMORY", "0"),
    ] {
        let test = "wrong_setting_matches_invalid_value_and_names_the_variable";
        let stderr = under_simcuda(test, &[(name, value)], || {
            assert_eq!(code(result::init()), Code::CUDA_ERROR_INVALID_VALUE);
        });
        assert!(driver_lines(&stderr)[0].contains(name) && stderr.contains(value), "{stderr}");
    }
}

#[test]
fn driver_version_matches_what_is_asked_for_before_the_driver_starts() {
    let test = "driver_version_matches_what_is_asked_for_before_the_driver_starts";
    under_simcuda(test, &[("SIMCUDA_DRIVER_VERSION", "11080")], || {
        let mut version = 0;
        // SAFETY: it writes one integer.
        assert_eq!(unsafe { sys::cuDriverGetVersion(&mut version) }, Code::CUDA_SUCCESS);
        assert_eq!(version, 11080);
    });
}

#[test]
fn copies_match_host_data_on_every_path() {
    under_simcuda("copies_match_host_data_on_every_path", &[], || {
        let (context, stream) = open();
        let data: Vec<u32> = (0..1000).map(|i| i * 7 + 1).collect();
        let a = stream.clone_htod(&data).expect("host to device");
        let mut b = stream.alloc_zeros::<u32>(1000).expect("zeros");
        assert_eq!(stream.clone_dtoh(&b).expect("back"), vec![0; 1000]);
        stream.memcpy_dtod(&a.slice(10..510), &mut b.slice_mut(100..600)).expect("device to device");
        let back = stream.clone_dtoh(&b).expect("device to host");
        assert_eq!(back[100..600], data[10..510]);
        assert!(back[..100].iter().chain(&back[600..]).all(|&x| x == 0));
        // SAFETY: the memory is written before it is read.
        let mut pinned = unsafe { context.alloc_pinned::<u32>(1000) }.expect("pinned memory");
        pinned.as_mut_slice().expect("host access").copy_from_slice(&data);
        stream.memcpy_htod(&pinned, &mut b).expect("from pinned memory");
        assert_eq!(stream.clone_dtoh(&b).expect("back"), data);
        let mut landing = vec![0; 1000];
        stream.memcpy_dtoh(&a, &mut landing).expect("to pageable memory");
        assert_eq!(landing, data);
    });
}

#[test]
fn memory_accounting_matches_allocations() {
    let settings = [("SIMCUDA_MEMORY", "16777216")];
    under_simcuda("memory_accounting_matches_allocations", &settings, || {
        let (context, stream) = open();
        assert_eq!(context.mem_get_info().expect("info"), (1 << 24, 1 << 24));
        let half = stream.alloc_zeros::<u8>(1 << 23).expect("half of the memory");
        assert_eq!(context.mem_get_info().expect("info").0, 1 << 23);
        assert_eq!(code(stream.alloc_zeros::<u8>((1 << 23) + 1)), Code::CUDA_ERROR_OUT_OF_MEMORY);
        drop(half);
        // The free has only been submitted; the allocation makes it run.
        stream.alloc_zeros::<u8>(1 << 24).expect("the whole memory, once the free has run");
        assert_eq!(code(stream.alloc_zeros::<u8>(0).map(|_| ())), Code::CUDA_ERROR_INVALID_VALUE);
    });
}

#[test]
fn bad_ranges_match_invalid_value() {
    let stderr = under_simcuda("bad_ranges_match_invalid_value", &[], || {
        let (_context, stream) = open();
        let raw = stream.cu_stream();
        // SAFETY: every call is refused before any memory is touched, or frees what it allocated.
        unsafe {
            let ptr = result::malloc_sync(100).expect("memory");
            assert_eq!(code(result::memset_d8_sync(ptr + 1, 0, 100)), Code::CUDA_ERROR_INVALID_VALUE);
            assert_eq!(code(result::memset_d8_async(ptr, 0, 101, raw)), Code::CUDA_ERROR_INVALID_VALUE);
            assert_eq!(code(result::memcpy_dtoh_sync(&mut [0u8; 2], ptr + 99)), Code::CUDA_ERROR_INVALID_VALUE);
            assert_eq!(code(result::memcpy_htod_sync(4096, &[0u8; 2])), Code::CUDA_ERROR_INVALID_VALUE);
            assert_eq!(sys::cuMemsetD32_v2(ptr + 2, 0, 1), Code::CUDA_ERROR_INVALID_VALUE);
            assert_eq!(code(result::free_sync(ptr + 4)), Code::CUDA_ERROR_INVALID_VALUE);
            result::free_async(ptr, raw).expect("the first free");
            assert_eq!(code(result::free_async(ptr, raw)), Code::CUDA_ERROR_INVALID_VALUE);
            assert_eq!(sys::cuMemAlloc_v2(std::ptr::null_mut(), 4), Code::CUDA_ERROR_INVALID_VALUE);
            assert_eq!(code(result::stream::synchronize(0x1234 as _)), Code::CUDA_ERROR_INVALID_HANDLE);
        }
        stream.synchronize().expect("none of this ends the context");
    });
    assert!(driver_lines(&stderr).len() >= 7, "{stderr}");
}

#[test]
fn rectangles_match_row_by_row_copies() {
    under_simcuda("rectangles_match_row_by_row_copies", &[], || {
        let (_context, stream) = open();
        let data: Vec<u8> = (0..100).collect();
        let source = stream.clone_htod(&data).expect("host to device");
        stream.synchronize().expect("written");
        let mut out = [255u8; 60];
        let (src, _guard) = cudarc::driver::DevicePtr::device_ptr(&source, &stream);
        let copy = sys::CUDA_MEMCPY2D {
            srcXInBytes: 3,
            srcY: 2,
            srcMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_DEVICE,
            srcHost: std::ptr::null(),
            srcDevice: src,
            srcArray: std::ptr::null_mut(),
            srcPitch: 10,
            dstXInBytes: 0,
            dstY: 0,
            dstMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_HOST,
            dstHost: out.as_mut_ptr().cast(),
            dstDevice: 0,
            dstArray: std::ptr::null_mut(),
            dstPitch: 12,
            WidthInBytes: 4,
            Height: 5,
        };
        // SAFETY: source rows 2..7 and destination rows 0..5 lie in the buffers.
        unsafe { sys::cuMemcpy2D_v2(&copy) }.result().expect("a rectangle");
        for (i, &byte) in out.iter().enumerate() {
            let (row, column) = (i / 12, i % 12);
            let expected = if column < 4 { ((row + 2) * 10 + 3 + column) as u8 } else { 255 };
            assert_eq!(byte, expected, "row {row}, column {column}");
        }
        // SAFETY: rows 2 and 5 of five bytes lie in the source.
        unsafe { sys::cuMemsetD2D8_v2(src + 20, 30, 9, 5, 2) }.result().expect("a filled rectangle");
        let back = stream.clone_dtoh(&source).expect("back");
        let expected = |i: usize| if matches!(i, 20..25 | 50..55) { 9 } else { i as u8 };
        assert_eq!(back, (0..100).map(expected).collect::<Vec<u8>>());
    });
}

#[test]
fn pool_use_matches_stream_ordered_allocations() {
    under_simcuda("pool_use_matches_stream_ordered_allocations", &[], || {
        let (context, stream) = open();
        let used = || {
            let mut bytes = 0u64;
            let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT;
            // SAFETY: the pool lives as long as the device, and the attribute is 64 bits wide.
            unsafe {
                let pool = result::device::get_default_mem_pool(context.cu_device()).expect("a pool");
                sys::cuMemPoolGetAttribute(pool, attribute, (&raw mut bytes).cast()).result().expect("an attribute");
            }
            bytes
        };
        assert_eq!(used(), 0);
        let a = stream.alloc_zeros::<u8>(1000).expect("memory");
        let b = stream.alloc_zeros::<u8>(24).expect("memory");
        assert_eq!(used(), 1024);
        drop(a);
        assert_eq!(used(), 1024, "the free has not run");
        stream.synchronize().expect("the free has run");
        assert_eq!(used(), 24);
        drop(b);
    });
}

#[test]
fn context_stack_matches_pushes_per_thread() {
    under_simcuda("context_stack_matches_pushes_per_thread", &[], || {
        let (context, _) = open();
        assert_eq!(result::ctx::get_current().expect("a query"), Some(context.cu_ctx()));
        let other = std::thread::spawn(|| {
            let none = result::ctx::get_current().expect("a query").is_none();
            (none, code(result::ctx::synchronize()))
        });
        assert_eq!(other.join().expect("the thread ends"), (true, Code::CUDA_ERROR_INVALID_CONTEXT));
        let mut popped = std::ptr::null_mut();
        // SAFETY: the context is live throughout.
        unsafe {
            sys::cuCtxPushCurrent_v2(context.cu_ctx()).result().expect("pushed");
            sys::cuCtxPopCurrent_v2(&mut popped).result().expect("popped");
        }
        assert_eq!(popped, context.cu_ctx());
        assert_eq!(result::ctx::get_current().expect("a query"), Some(context.cu_ctx()));
    });
}

#[test]
fn calls_before_init_match_not_initialized() {
    under_simcuda("calls_before_init_match_not_initialized", &[], || {
        assert_eq!(code(result::device::get_count()), Code::CUDA_ERROR_NOT_INITIALIZED);
        let error = DriverError(Code::CUDA_ERROR_NOT_INITIALIZED);
        assert_eq!(error.error_name().expect("a name").to_bytes(), b"CUDA_ERROR_NOT_INITIALIZED");
        assert!(!error.error_string().expect("a description").is_empty());
    });
}
