//! What goes wrong in kernels, launches and modules: the code the real driver gives, one clear line, no crash.

mod common;
#[path = "common/device.rs"]
mod device;

use common::{code, driver_lines, under_simcuda};
use cudarc::driver::{CudaContext, LaunchConfig, PushKernelArg, result, sys};
use cudarc::nvrtc::Ptx;
use device::{Device, shape};
use sys::CUresult as Code;

/// Checks the one line that a fault leaves.
fn assert_line(stderr: &str, parts: &[&str]) {
    let lines = driver_lines(stderr);
    assert_eq!(lines.len(), 1, "{stderr}");
    for part in parts {
        assert!(lines[0].contains(part), "expected {part:?} in {:?}", lines[0]);
    }
}

#[test]
fn write_past_the_end_matches_illegal_address_and_poisons_the_context() {
    let test = "write_past_the_end_matches_illegal_address_and_poisons_the_context";
    let stderr = under_simcuda(test, &[], || {
        let device = Device::with_kernels("faults");
        let function = device.function("write_without_bound");
        let mut x = device.stream.alloc_zeros::<i32>(64).expect("memory");
        let mut launch = device.stream.launch_builder(&function);
        launch.arg(&mut x);
        // SAFETY: the kernel's fault is what is tested; the simulated device contains it.
        unsafe { launch.launch(shape((1, 1), 65)) }.expect("the launch itself is in order");
        assert_eq!(code(device.stream.synchronize()), Code::CUDA_ERROR_ILLEGAL_ADDRESS);
        // From now on every call that needs the context says the same.
        assert_eq!(code(device.stream.clone_dtoh(&x)), Code::CUDA_ERROR_ILLEGAL_ADDRESS);
        assert_eq!(code(device.context.synchronize()), Code::CUDA_ERROR_ILLEGAL_ADDRESS);
        assert_eq!(code(device.stream.alloc_zeros::<i32>(1)), Code::CUDA_ERROR_ILLEGAL_ADDRESS);
        // Queries that do not need it still work, and a reset starts afresh.
        assert_eq!(CudaContext::device_count().expect("a count"), 1);
        // SAFETY: nothing of the old context is used afterwards but to be dropped.
        unsafe { sys::cuDevicePrimaryCtxReset_v2(0) }.result().expect("reset");
        // SAFETY: as above.
        let fresh = unsafe { result::primary_ctx::retain(0) }.expect("a new primary context");
        // SAFETY: the context was just retained.
        unsafe { result::ctx::set_current(fresh) }.expect("current");
        result::ctx::synchronize().expect("the new context is sound");
        std::process::exit({
            println!("body of the test has run");
            0
        });
    });
    assert_line(
        &stderr,
        &["CUDA_ERROR_ILLEGAL_ADDRESS (700)", "write_without_bound", "faults.cu:5", "thread (64,0,0)", "256 bytes"],
    );
}

#[test]
fn faults_match_the_codes_of_the_driver() {
    let test = "faults_match_the_codes_of_the_driver";
    let cases = [
        ("read_misaligned", Code::CUDA_ERROR_MISALIGNED_ADDRESS, "faults.cu:10"),
        ("trap_in_last_thread", Code::CUDA_ERROR_LAUNCH_FAILED, "thread (31,0,0)"),
        ("wait_forever", Code::CUDA_ERROR_LAUNCH_TIMEOUT, "faults.cu:"),
        ("copy_words", Code::CUDA_ERROR_LAUNCH_FAILED, "Uninitialized"),
        ("reverse_without_barrier", Code::CUDA_ERROR_LAUNCH_FAILED, "SharedRace"),
    ];
    for (kernel, _, part) in cases {
        let stderr = under_simcuda(test, &[("SIMCUDA_BUDGET", "1000000"), ("KERNEL", kernel)], || {
            let kernel = std::env::var("KERNEL").expect("set by the parent");
            let expected = cases.iter().find(|case| case.0 == kernel).expect("one of the cases").1;
            let device = Device::with_kernels("faults");
            let function = device.function(&kernel);
            let stream = &device.stream;
            let zeros = stream.alloc_zeros::<i32>(256).expect("memory");
            // SAFETY: the missing initialisation is what is tested.
            let unwritten = unsafe { stream.alloc::<i32>(256) }.expect("memory");
            let mut out = stream.alloc_zeros::<i32>(256).expect("memory");
            let mut launch = stream.launch_builder(&function);
            let mut threads = 32;
            match kernel.as_str() {
                "read_misaligned" => drop(launch.arg(&zeros).arg(&mut out)),
                "wait_forever" => drop(launch.arg(&zeros)),
                "copy_words" => drop(launch.arg(&unwritten).arg(&mut out).arg(&32u32)),
                "reverse_without_barrier" => {
                    threads = 256;
                    launch.arg(&mut out);
                }
                _ => {}
            }
            // SAFETY: the kernel's fault is what is tested; the simulated device contains it.
            unsafe { launch.launch(shape((1, 1), threads)) }.expect("the launch itself is in order");
            assert_eq!(code(stream.synchronize()), expected, "{kernel}");
        });
        assert_line(&stderr, &[kernel, part]);
    }
}

#[test]
fn use_after_a_stream_ordered_free_matches_illegal_address() {
    let test = "use_after_a_stream_ordered_free_matches_illegal_address";
    let stderr = under_simcuda(test, &[], || {
        let device = Device::with_kernels("faults");
        let function = device.function("write_without_bound");
        let stream = &device.stream;
        // SAFETY: the use after the free is what is tested; the simulated device contains it.
        unsafe {
            let ptr = result::malloc_async(stream.cu_stream(), 128).expect("memory");
            result::free_async(ptr, stream.cu_stream()).expect("freed in the stream");
            let mut arguments = [(&raw const ptr).cast_mut().cast()];
            let raw = function.cu_function();
            result::launch_kernel(raw, (1, 1, 1), (32, 1, 1), 0, stream.cu_stream(), &mut arguments)
                .expect("submitted");
        }
        assert_eq!(code(stream.synchronize()), Code::CUDA_ERROR_ILLEGAL_ADDRESS);
    });
    assert_line(&stderr, &["UseAfterFree", "write_without_bound", "freed allocation"]);
}

#[test]
fn checks_can_be_turned_off() {
    under_simcuda("checks_can_be_turned_off", &[("SIMCUDA_CHECKS", "0")], || {
        let device = Device::with_kernels("faults");
        let function = device.function("copy_words");
        // SAFETY: any bytes are valid integers.
        let unwritten = unsafe { device.stream.alloc::<i32>(32) }.expect("memory");
        let mut out = device.stream.alloc_zeros::<i32>(32).expect("memory");
        let mut launch = device.stream.launch_builder(&function);
        launch.arg(&unwritten).arg(&mut out).arg(&32u32);
        // SAFETY: the arguments are those that the kernel's text lists.
        unsafe { launch.launch(shape((1, 1), 32)) }.expect("launched");
        device.stream.synchronize().expect("unchecked");
    });
}

#[test]
fn impossible_launches_match_their_codes_and_change_nothing() {
    let stderr = under_simcuda("impossible_launches_match_their_codes_and_change_nothing", &[], || {
        let device = Device::with_kernels("gemm_w4a8");
        let function = device.function("gemm_w4a8");
        let raw = function.cu_function();
        let stream = device.stream.cu_stream();
        let try_launch =
            |config: LaunchConfig, arguments: *mut *mut std::ffi::c_void, extra: *mut *mut std::ffi::c_void| {
                let ((gx, gy, gz), (bx, by, bz)) = (config.grid_dim, config.block_dim);
                // SAFETY: every one of these launches is refused.
                unsafe {
                    sys::cuLaunchKernel(raw, gx, gy, gz, bx, by, bz, config.shared_mem_bytes, stream, arguments, extra)
                }
            };
        let none = std::ptr::null_mut();
        let word = 0u64;
        let mut pointers = [(&raw const word).cast_mut().cast(); 6];
        let arguments = pointers.as_mut_ptr();
        let with = |grid, block, shared_mem_bytes| LaunchConfig { grid_dim: grid, block_dim: block, shared_mem_bytes };
        let one = (1, 1, 1);
        assert_eq!(try_launch(with((0, 1, 1), (32, 1, 1), 0), arguments, none), Code::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(try_launch(with((1, 65536, 1), (32, 1, 1), 0), arguments, none), Code::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(try_launch(with(one, (1025, 1, 1), 0), arguments, none), Code::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(try_launch(with(one, (1, 1, 65), 0), arguments, none), Code::CUDA_ERROR_INVALID_VALUE);
        // The kernel is compiled for 128 threads.
        assert_eq!(try_launch(with(one, (256, 1, 1), 0), arguments, none), Code::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES);
        assert_eq!(try_launch(with(one, (128, 1, 1), 49153), arguments, none), Code::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(try_launch(with(one, (128, 1, 1), 0), none, none), Code::CUDA_ERROR_INVALID_VALUE);
        let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        assert_eq!(code(function.set_attribute(attribute, 163 * 1024 + 1)), Code::CUDA_ERROR_INVALID_VALUE);
        function.set_attribute(attribute, 163 * 1024).expect("the most that a block may have");
        // Arguments as one buffer of a wrong size: three pointers and three integers are 36 bytes.
        let (buffer, size) = ([0u8; 40], 40usize);
        let mut extra = [
            std::ptr::without_provenance_mut(1),
            (&raw const buffer).cast_mut().cast(),
            std::ptr::without_provenance_mut(2),
            (&raw const size).cast_mut().cast(),
            none.cast(),
        ];
        let by_buffer = try_launch(with(one, (128, 1, 1), 0), none, extra.as_mut_ptr());
        assert_eq!(by_buffer, Code::CUDA_ERROR_INVALID_VALUE);
        // 17 blocks of 163 KiB on 16 multiprocessors cannot wait for each other.
        // SAFETY: the launch is refused.
        let cooperative =
            unsafe { sys::cuLaunchCooperativeKernel(raw, 17, 1, 1, 128, 1, 1, 163 * 1024, stream, arguments) };
        assert_eq!(cooperative, Code::CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE);
        device.stream.synchronize().expect("nothing was submitted and nothing is broken");
    });
    assert_eq!(driver_lines(&stderr).len(), 10, "{stderr}");
}

#[test]
fn occupancy_matches_the_limits_of_the_device() {
    under_simcuda("occupancy_matches_the_limits_of_the_device", &[], || {
        let device = Device::with_kernels("gemm_w4a8");
        let function = device.function("gemm_w4a8");
        let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        function.set_attribute(attribute, 163 * 1024).expect("the most that a block may have");
        let blocks = |threads, shared| function.occupancy_max_active_blocks_per_multiprocessor(threads, shared, None);
        assert_eq!(blocks(128, 163 * 1024).expect("a count"), 1);
        assert_eq!(blocks(128, 80 * 1024).expect("a count"), 2);
        assert_eq!(blocks(256, 0).expect("a count"), 0, "the kernel is compiled for 128 threads");
        let threads = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK;
        assert_eq!(function.get_attribute(threads).expect("an attribute"), 128);
    });
}

#[test]
fn bad_modules_match_their_codes() {
    let stderr = under_simcuda("bad_modules_match_their_codes", &[], || {
        let context = CudaContext::new(0).expect("the simulated device");
        let load = |text: &str| code(context.load_module(Ptx::from_src(text)).map(drop));
        let header = ".version 8.0\n.target sm_80\n.address_size 64\n";
        assert_eq!(load("nonsense"), Code::CUDA_ERROR_INVALID_IMAGE);
        assert_eq!(load(&header.replace("8.0", "99.0")), Code::CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
        assert_eq!(load(&header.replace("sm_80", "sm_120")), Code::CUDA_ERROR_INVALID_PTX);
        assert_eq!(load(&format!("{header}.visible .entry broken( {{ ret; }}")), Code::CUDA_ERROR_INVALID_PTX);
        let module =
            context.load_module(Ptx::from_src(format!("{header}.visible .entry empty() {{ ret; }}"))).expect("loaded");
        assert_eq!(code(module.load_function("full").map(drop)), Code::CUDA_ERROR_NOT_FOUND);
        let function = module.load_function("empty").expect("the entry");
        let stream = context.new_stream().expect("a stream");
        // SAFETY: the kernel has no parameters and does nothing.
        unsafe { stream.launch_builder(&function).launch(shape((1, 1), 32)) }.expect("launched");
        stream.synchronize().expect("run");
        let cubin = Ptx::from_binary(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec());
        assert_eq!(code(context.load_module(cubin).map(drop)), Code::CUDA_ERROR_NO_BINARY_FOR_GPU);
    });
    assert_eq!(driver_lines(&stderr).len(), 6, "{stderr}");
    assert!(stderr.contains("ptx:4"), "the line of the syntax error: {stderr}");
}

#[test]
fn compiler_log_matches_the_error() {
    under_simcuda("compiler_log_matches_the_error", &[], || {
        let _context = CudaContext::new(0).expect("the simulated device");
        let text = c".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry broken( { ret; }\n";
        let mut log = [1u8; 200];
        let mut options =
            [sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER, sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
        let mut values = [log.as_mut_ptr().cast(), log.len() as *mut std::ffi::c_void];
        let mut module = std::ptr::null_mut();
        // SAFETY: the text is terminated, the option arrays have two elements, the log its stated size.
        let result = unsafe {
            sys::cuModuleLoadDataEx(&mut module, text.as_ptr().cast(), 2, options.as_mut_ptr(), values.as_mut_ptr())
        };
        assert_eq!(result, Code::CUDA_ERROR_INVALID_PTX);
        let log = std::ffi::CStr::from_bytes_until_nul(&log).expect("terminated").to_string_lossy();
        assert!(log.starts_with("ptx:4"), "{log}");
    });
}
