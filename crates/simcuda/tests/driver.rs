//! Devices, memory, streams and events as a cudarc program sees them.

mod common;

use std::sync::Arc;

use common::{driver_lines, under_simcuda};
use cudarc::driver::{CudaContext, CudaStream, DriverError, result, sys};
use sys::CUdevice_attribute_enum as Attribute;
use sys::CUresult as Code;

fn open() -> (Arc<CudaContext>, Arc<CudaStream>) {
    let context = CudaContext::new(0).expect("the simulated device");
    let stream = context.new_stream().expect("a stream");
    (context, stream)
}

fn code<T>(result: Result<T, DriverError>) -> Code {
    result.err().map_or(Code::CUDA_SUCCESS, |error| error.0)
}

#[test]
fn device_matches_the_capability_asked_for() {
    for arch in ["7.5", "8.0", "9.0"] {
        under_simcuda("device_matches_the_capability_asked_for", &[("SIMCUDA_ARCH", arch)], || {
            let arch = std::env::var("SIMCUDA_ARCH").expect("set by the parent");
            let (capability, shared_bytes, clusters) = match arch.as_str() {
                "7.5" => ((7, 5), 64 * 1024, 0),
                "8.0" => ((8, 0), 163 * 1024, 0),
                _ => ((9, 0), 227 * 1024, 1),
            };
            let (context, _) = open();
            assert_eq!(CudaContext::device_count().expect("a count"), 1);
            assert_eq!(context.compute_capability().expect("a capability"), capability);
            assert_eq!(context.name().expect("a name"), format!("simcuda {arch}"));
            let attribute = |number| context.attribute(number).expect("an attribute");
            assert_eq!(attribute(Attribute::CU_DEVICE_ATTRIBUTE_WARP_SIZE), 32);
            assert_eq!(attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT), 16);
            assert_eq!(attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN), shared_bytes);
            assert_eq!(attribute(Attribute::CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH), clusters);
            assert_eq!(attribute(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED), 1);
            assert_eq!(code(CudaContext::new(1)), Code::CUDA_ERROR_INVALID_DEVICE);
        });
    }
}

#[test]
fn wrong_setting_matches_invalid_value_and_names_the_variable() {
    for (name, value) in [
        ("SIMCUDA_ARCH", "7.0"),
        ("SIMCUDA_DRIVER_VERSION", "13060"),
        ("SIMCUDA_ORDER", "sometimes"),
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
fn missing_event_wait_shows_in_the_lazy_order_only() {
    let test = "missing_event_wait_shows_in_the_lazy_order_only";
    for order in ["lazy", "eager"] {
        under_simcuda(test, &[("SIMCUDA_ORDER", order)], || {
            let lazy = std::env::var("SIMCUDA_ORDER").expect("set by the parent") == "lazy";
            let (context, first) = open();
            // SAFETY: the test orders its streams itself, or leaves that out on purpose.
            unsafe { context.disable_event_tracking() };
            let second = context.new_stream().expect("a stream");
            let mut data = first.clone_htod(&[1u32; 64]).expect("ones");
            first.synchronize().expect("written");
            first.memset_zeros(&mut data).expect("submitted to the first stream");
            let early = second.clone_dtoh(&data).expect("read by the second stream without a wait");
            assert_eq!(early[0], u32::from(lazy));
            second.wait(&first.record_event(None).expect("an event")).expect("a wait");
            assert_eq!(second.clone_dtoh(&data).expect("read after the wait")[0], 0);
        });
    }
}

#[test]
fn waits_match_submission_order_for_every_seed() {
    let test = "waits_match_submission_order_for_every_seed";
    for order in ["lazy", "eager", "seed:1", "seed:2", "seed:3"] {
        under_simcuda(test, &[("SIMCUDA_ORDER", order)], || {
            let (context, first) = open();
            let streams: Vec<_> = (0..3).map(|_| context.new_stream().expect("a stream")).collect();
            let mut chain = first.clone_htod(&[0u8; 100]).expect("zeros");
            for i in 0..100usize {
                // cudarc's own event tracking orders the streams, one byte after the other.
                let stream = &streams[i % 3];
                let value = stream.clone_dtoh(&chain).expect("the state so far");
                assert!(value[..i].iter().enumerate().all(|(k, &v)| v as usize == k + 1), "{value:?}");
                stream.memcpy_htod(&[i as u8 + 1], &mut chain.slice_mut(i..i + 1)).expect("the next byte");
            }
            let expected: Vec<u8> = (1..=100).collect();
            assert_eq!(first.clone_dtoh(&chain).expect("all"), expected);
        });
    }
}

#[test]
fn default_stream_matches_the_legacy_rule() {
    under_simcuda("default_stream_matches_the_legacy_rule", &[], || {
        let (context, non_blocking) = open();
        let default = context.default_stream();
        // SAFETY: raw handles of this test only, each used while it lives.
        unsafe {
            let blocking = result::stream::create(result::stream::StreamKind::Default).expect("a blocking stream");
            let ptr = result::malloc_sync(4).expect("memory");
            result::memset_d8_sync(ptr, 1, 4).expect("a first value");
            let mut seen = [0u8; 4];
            // The default stream waits for a blocking stream …
            result::memset_d8_async(ptr, 2, 4, blocking).expect("submitted");
            result::memcpy_dtoh_async(&mut seen, ptr, default.cu_stream()).expect("read");
            assert_eq!(seen, [2; 4]);
            // … and a blocking stream for the default stream …
            result::memset_d8_async(ptr, 3, 4, default.cu_stream()).expect("submitted");
            result::memcpy_dtoh_async(&mut seen, ptr, blocking).expect("read");
            assert_eq!(seen, [3; 4]);
            // … but a non-blocking one for neither.
            result::memset_d8_async(ptr, 4, 4, default.cu_stream()).expect("submitted");
            result::memcpy_dtoh_async(&mut seen, ptr, non_blocking.cu_stream()).expect("read");
            assert_eq!(seen, [3; 4]);
            result::free_sync(ptr).expect("freed");
            result::stream::destroy(blocking).expect("destroyed");
        }
    });
}

#[test]
fn event_times_match_the_order_of_records() {
    under_simcuda("event_times_match_the_order_of_records", &[], || {
        let (context, stream) = open();
        let timed = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
        let start = stream.record_event(timed).expect("an event");
        // SAFETY: the function ignores its argument.
        unsafe { result::stream::launch_host_function(stream.cu_stream(), sleep_20_ms, std::ptr::null_mut()) }
            .expect("a host function");
        let end = stream.record_event(timed).expect("an event");
        let not_ready = {
            let mut ms = 0.0;
            // SAFETY: both events live.
            unsafe { sys::cuEventElapsedTime_v2(&mut ms, start.cu_event(), end.cu_event()) }
        };
        assert_eq!(not_ready, Code::CUDA_ERROR_NOT_READY);
        let elapsed = start.elapsed_ms(&end).expect("a time");
        assert!(elapsed >= 20.0, "the stream slept 20 ms between the records, got {elapsed} ms");
        let untimed = stream.record_event(None).expect("an event");
        untimed.synchronize().expect("reached");
        assert_eq!(code(start.elapsed_ms(&untimed)), Code::CUDA_ERROR_INVALID_HANDLE);
        assert!(context.new_event(timed).expect("an event").is_complete(), "an event never recorded is complete");
    });
}

#[test]
fn query_never_waits_and_polling_gets_on() {
    under_simcuda("query_never_waits_and_polling_gets_on", &[], || {
        let (_context, stream) = open();
        let (release, gate) = std::sync::mpsc::channel::<()>();
        let gate = Box::into_raw(Box::new(gate));
        // SAFETY: the function takes the receiver back out of its box.
        unsafe { result::stream::launch_host_function(stream.cu_stream(), wait_at_gate, gate.cast()) }
            .expect("submitted");
        let event = stream.record_event(None).expect("an event");
        assert_eq!(event.try_is_complete(), Ok(false));
        // SAFETY: the stream lives.
        let query = || unsafe { sys::cuStreamQuery(stream.cu_stream()) };
        assert_eq!(query(), Code::CUDA_ERROR_NOT_READY);
        release.send(()).expect("the gate is still there");
        while event.try_is_complete() == Ok(false) {
            std::thread::yield_now();
        }
        assert_eq!(event.try_is_complete(), Ok(true));
        assert_eq!(query(), Code::CUDA_SUCCESS);
    });
}

unsafe extern "C" fn wait_at_gate(gate: *mut std::ffi::c_void) {
    // SAFETY: the test passes a boxed receiver and gives it up.
    let gate = unsafe { Box::from_raw(gate.cast::<std::sync::mpsc::Receiver<()>>()) };
    // The test sends before it ends; if it fails first, the sender is gone and this returns too.
    let _ = gate.recv();
}

unsafe extern "C" fn sleep_20_ms(_: *mut std::ffi::c_void) {
    std::thread::sleep(std::time::Duration::from_millis(20));
}

unsafe extern "C" fn call_the_driver(code: *mut std::ffi::c_void) {
    // SAFETY: the test passes the address of an i32 that outlives the stream's work.
    unsafe { *code.cast::<i32>() = sys::cuCtxSynchronize() as i32 };
}

#[test]
fn call_inside_a_host_function_matches_not_permitted() {
    let stderr = under_simcuda("call_inside_a_host_function_matches_not_permitted", &[], || {
        let (_context, stream) = open();
        let mut seen = 0i32;
        // SAFETY: `seen` lives until the stream has been synchronised.
        unsafe {
            let argument = (&raw mut seen).cast();
            result::stream::launch_host_function(stream.cu_stream(), call_the_driver, argument).expect("submitted");
        }
        stream.synchronize().expect("the function has run");
        assert_eq!(seen, Code::CUDA_ERROR_NOT_PERMITTED as i32);
    });
    assert!(stderr.contains("host function"), "{stderr}");
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

#[test]
fn threads_with_their_own_streams_match_one_thread() {
    let test = "threads_with_their_own_streams_match_one_thread";
    for order in ["lazy", "seed:9"] {
        under_simcuda(test, &[("SIMCUDA_ORDER", order)], || {
            let (context, _) = open();
            std::thread::scope(|scope| {
                for thread in 0..4u32 {
                    let context = &context;
                    scope.spawn(move || {
                        let stream = context.new_stream().expect("a stream");
                        for round in 0..50u32 {
                            let data: Vec<u32> = (0..64).map(|i| i * thread + round).collect();
                            let first = stream.clone_htod(&data).expect("up");
                            let mut second = stream.alloc_zeros::<u32>(64).expect("memory");
                            stream.memcpy_dtod(&first, &mut second).expect("across");
                            assert_eq!(stream.clone_dtoh(&second).expect("down"), data);
                        }
                    });
                }
            });
            context.check_err().expect("no error in any drop");
            let (free, total) = context.mem_get_info().expect("info");
            context.synchronize().expect("all frees have run");
            assert!(free <= total && context.mem_get_info().expect("info").0 == total);
        });
    }
}
