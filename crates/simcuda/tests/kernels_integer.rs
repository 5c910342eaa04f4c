//! Kernels on integers against plain definitions, bit for bit.

mod common;
#[path = "common/device.rs"]
mod device;

use common::{kernel_ptx, under_simcuda};
use cudarc::driver::PushKernelArg;
use device::{Device, Random, shape};

/// One definition of an int4 product: words of eight nibbles, each offset by 8, at the k that `k_of` gives a nibble.
fn unpack(qweight: &[u32], k_elems: usize, k_of: impl Fn(usize) -> usize) -> Vec<i32> {
    let mut q = vec![0; qweight.len() * 8];
    for (i, &word) in qweight.iter().enumerate() {
        let (row, first) = (i / (k_elems / 8), i % (k_elems / 8) * 8);
        for nibble in 0..8 {
            q[row * k_elems + first + k_of(nibble)] = (word >> (4 * nibble) & 15) as i32 - 8;
        }
    }
    q
}

fn product(x: &[i8], q: &[i32], m: usize, n: usize, k: usize) -> Vec<i32> {
    let at = |row: usize, column: usize| (0..k).map(|i| i32::from(x[row * k + i]) * q[column * k + i]).sum();
    (0..m * n).map(|i| at(i / n, i % n)).collect()
}

#[test]
fn sum_and_histogram_match_iterators_at_every_length() {
    under_simcuda("sum_and_histogram_match_iterators_at_every_length", &[], || {
        let device = Device::with_kernels("reduce");
        let (sum, histogram) = (device.function("reduce_sum_i32"), device.function("max_and_histogram"));
        let mut random = Random::new(1);
        for n in [1usize, 31, 32, 33, 1000, 5000] {
            let x = random.take(n, |r| r.bits() as i32);
            let input = device.stream.clone_htod(&x).expect("input");
            let mut total = device.stream.clone_htod(&[0i32]).expect("zero");
            let mut best = device.stream.clone_htod(&[i32::MIN]).expect("the least");
            let mut counts = device.stream.clone_htod(&[0u32; 16]).expect("zeros");
            let length = n as u32;
            for block in [96, 256] {
                let mut launch = device.stream.launch_builder(&sum);
                launch.arg(&input).arg(&mut total).arg(&length);
                // SAFETY: the arguments are those that the kernel's text lists.
                unsafe { launch.launch(shape((3, 1), block)) }.expect("launched");
            }
            let mut launch = device.stream.launch_builder(&histogram);
            launch.arg(&input).arg(&mut best).arg(&mut counts).arg(&length);
            // SAFETY: as above.
            unsafe { launch.launch(shape((2, 1), 128)) }.expect("launched");
            let once = x.iter().fold(0i32, |sum, &v| sum.wrapping_add(v));
            assert_eq!(device.stream.clone_dtoh(&total).expect("a sum"), [once.wrapping_mul(2)], "n {n}");
            assert_eq!(device.stream.clone_dtoh(&best).expect("a maximum"), [*x.iter().max().expect("not empty")]);
            let mut expected = [0u32; 16];
            x.iter().for_each(|v| expected[(v & 15) as usize] += 1);
            assert_eq!(device.stream.clone_dtoh(&counts).expect("counts"), expected, "n {n}");
        }
    });
}

#[test]
fn w4a8_gemv_matches_the_integer_product() {
    under_simcuda("w4a8_gemv_matches_the_integer_product", &[], || {
        let device = Device::with_kernels("gemv_w4a8");
        let function = device.function("gemv_w4a8");
        let mut random = Random::new(2);
        for (n, k) in [(1usize, 8usize), (5, 256), (64, 576), (33, 1544)] {
            let qweight = random.take(n * k / 8, |r| r.bits() as u32);
            let x = random.take(k, |r| r.bits() as i8);
            let scale = random.take(n, |r| r.unit());
            let stream = &device.stream;
            let (w, a) = (stream.clone_htod(&qweight).expect("weights"), stream.clone_htod(&x).expect("activations"));
            let s = stream.clone_htod(&scale).expect("scales");
            let mut acc = stream.alloc_zeros::<i32>(n).expect("memory");
            let mut y = stream.alloc_zeros::<f32>(n).expect("memory");
            let mut launch = stream.launch_builder(&function);
            let (rows, elems) = (n as u32, k as u32);
            launch.arg(&w).arg(&a).arg(&s).arg(&0.03f32).arg(&mut acc).arg(&mut y).arg(&rows).arg(&elems);
            // SAFETY: the arguments are those that the kernel's text lists.
            unsafe { launch.launch(shape((n.div_ceil(4) as u32, 1), 128)) }.expect("launched");
            // Low nibbles of the four bytes are k = 0..4, high ones k = 4..8.
            let q = unpack(&qweight, k, |nibble| nibble / 2 + 4 * (nibble % 2));
            let expected = product(&x, &q, 1, n, k);
            assert_eq!(stream.clone_dtoh(&acc).expect("accumulators"), expected, "n {n}, k {k}");
            let scaled: Vec<f32> = expected.iter().zip(&scale).map(|(&acc, s)| acc as f32 * (s * 0.03)).collect();
            assert_eq!(stream.clone_dtoh(&y).expect("outputs"), scaled, "n {n}, k {k}");
        }
    });
}

#[test]
fn w4a8_mma_gemm_matches_the_integer_product() {
    under_simcuda("w4a8_mma_gemm_matches_the_integer_product", &[], || {
        let device = Device::with_kernels("gemm_w4a8");
        let function = device.function("gemm_w4a8");
        let mut random = Random::new(3);
        for (m, n, k) in [(1usize, 64usize, 64usize), (64, 64, 512), (65, 128, 192), (100, 64, 128)] {
            let qweight = random.take(n * k / 8, |r| r.bits() as u32);
            let x = random.take(m * k, |r| r.bits() as i8);
            let stream = &device.stream;
            let (w, a) = (stream.clone_htod(&qweight).expect("weights"), stream.clone_htod(&x).expect("activations"));
            let mut acc = stream.alloc_zeros::<i32>(m * n).expect("memory");
            let mut launch = stream.launch_builder(&function);
            let (rows, columns, elems) = (m as i32, n as i32, k as i32);
            launch.arg(&a).arg(&w).arg(&mut acc).arg(&rows).arg(&columns).arg(&elems);
            let mut config = shape((n as u32 / 64, m.div_ceil(64) as u32), 128);
            config.shared_mem_bytes = 2 * (64 * 80 + 64 * 32);
            // SAFETY: the arguments are those that the kernel's text lists.
            unsafe { launch.launch(config) }.expect("launched");
            let q = unpack(&qweight, k, |nibble| nibble);
            assert_eq!(stream.clone_dtoh(&acc).expect("accumulators"), product(&x, &q, m, n, k), "{m} {n} {k}");
        }
    });
}

#[test]
fn stream_k_gemm_matches_the_integer_product_for_every_grid() {
    under_simcuda("stream_k_gemm_matches_the_integer_product_for_every_grid", &[], || {
        let device = Device::with_kernels("stream_k");
        let function = device.function("stream_k_gemm");
        let mut random = Random::new(4);
        let (m, n, k) = (64usize, 96usize, 256usize);
        let a = random.take(m * k, |r| r.bits() as i8);
        let b = random.take(n * k, |r| r.bits() as i8);
        let wide: Vec<i32> = b.iter().map(|&v| v.into()).collect();
        let expected = product(&a, &wide, m, n, k);
        let stream = &device.stream;
        let (a_gmem, b_gmem) = (stream.clone_htod(&a).expect("a"), stream.clone_htod(&b).expect("b"));
        // 6 tiles of 8 iterations: whole tiles, halves, odd shares, and more blocks than tiles.
        for blocks in [1usize, 3, 5, 6, 7, 16] {
            let mut acc = stream.alloc_zeros::<i32>(m * n).expect("memory");
            // SAFETY: the kernel reads only what its blocks have published.
            let mut partial = unsafe { stream.alloc::<i32>(blocks * 1024) }.expect("memory");
            let mut flags = stream.alloc_zeros::<u32>(blocks).expect("memory");
            let mut launch = stream.launch_builder(&function);
            let (rows, columns, elems) = (m as i32, n as i32, k as i32);
            launch.arg(&a_gmem).arg(&b_gmem).arg(&mut acc).arg(&mut partial).arg(&mut flags);
            launch.arg(&rows).arg(&columns).arg(&elems);
            // SAFETY: the arguments are those that the kernel's text lists.
            unsafe { launch.launch(shape((blocks as u32, 1), 256)) }.expect("launched");
            assert_eq!(stream.clone_dtoh(&acc).expect("accumulators"), expected, "{blocks} blocks");
        }
    });
}

#[test]
fn look_back_scan_matches_a_running_sum() {
    under_simcuda("look_back_scan_matches_a_running_sum", &[], || {
        let device = Device::with_kernels("scan");
        let function = device.function("inclusive_scan_u32");
        let mut random = Random::new(5);
        for n in [1usize, 256, 257, 20_000] {
            let x = random.take(n, |r| r.bits() as u32);
            let stream = &device.stream;
            let input = stream.clone_htod(&x).expect("input");
            let tiles = n.div_ceil(256);
            let mut y = stream.alloc_zeros::<u32>(n).expect("memory");
            let mut states = stream.alloc_zeros::<u64>(tiles).expect("memory");
            let mut ticket = stream.alloc_zeros::<u32>(1).expect("memory");
            let length = n as u32;
            let mut launch = stream.launch_builder(&function);
            launch.arg(&input).arg(&mut y).arg(&mut states).arg(&mut ticket).arg(&length);
            // SAFETY: the arguments are those that the kernel's text lists.
            unsafe { launch.launch(shape((tiles as u32, 1), 256)) }.expect("launched");
            let mut sum = 0u32;
            let running = |v: &u32| {
                sum = sum.wrapping_add(*v);
                sum
            };
            let expected: Vec<u32> = x.iter().map(running).collect();
            assert_eq!(stream.clone_dtoh(&y).expect("sums"), expected, "n {n}");
        }
    });
}

#[test]
fn module_variables_match_what_host_and_kernel_write() {
    under_simcuda("module_variables_match_what_host_and_kernel_write", &[], || {
        use cudarc::driver::result;
        let device = Device::with_kernels("globals");
        let function = device.function("evaluate");
        let ptx = std::ffi::CString::new(kernel_ptx("globals")).expect("no NUL in PTX");
        // SAFETY: raw calls on a module of this test, with buffers of the variables' sizes.
        let (bias, calls, raw) = unsafe {
            let module = result::module::load_data(ptx.as_ptr().cast()).expect("loaded");
            let find = |name: &std::ffi::CStr| result::module::get_global(module, name.to_owned()).expect("a variable");
            let (bias, calls) = (find(c"bias"), find(c"calls"));
            assert_eq!((bias.1, calls.1), (8, 4));
            let missing = result::module::get_global(module, c"absent".to_owned());
            assert_eq!(common::code(missing), cudarc::driver::sys::CUresult::CUDA_ERROR_NOT_FOUND);
            (bias.0, calls.0, result::module::get_function(module, c"evaluate".to_owned()).expect("an entry"))
        };
        let mut initial = [0i32; 2];
        // SAFETY: the destination has the size of the variable.
        unsafe { result::memcpy_dtoh_sync(&mut initial, bias) }.expect("read");
        assert_eq!(initial, [100, 200]);
        // SAFETY: the source has the size of the variable.
        unsafe { result::memcpy_htod_sync(bias, &[-1i32, 5]) }.expect("written");
        let n = 40u32;
        let mut y = device.stream.alloc_zeros::<i32>(n as usize).expect("memory");
        device.stream.synchronize().expect("zeroed");
        let (pointer, _guard) = cudarc::driver::DevicePtrMut::device_ptr_mut(&mut y, &device.stream);
        let mut arguments = [(&raw const pointer).cast_mut().cast(), (&raw const n).cast_mut().cast()];
        // SAFETY: the arguments are those that the kernel's text lists.
        unsafe { result::launch_kernel(raw, (2, 1, 1), (32, 1, 1), 0, device.stream.cu_stream(), &mut arguments) }
            .expect("launched");
        drop(_guard);
        let expected = |i: i32| 7 - 3 * i + 2 * i * i + i * i * i + [-1, 5][(i % 2) as usize];
        assert_eq!(device.stream.clone_dtoh(&y).expect("values"), (0..40).map(expected).collect::<Vec<i32>>());
        let mut count = [0u32];
        // SAFETY: the destination has the size of the variable.
        unsafe { result::memcpy_dtoh_sync(&mut count, calls) }.expect("read");
        assert_eq!(count, [40]);
        // Another load of the same text has variables of its own.
        let mut launch = device.stream.launch_builder(&function);
        launch.arg(&mut y).arg(&n);
        // SAFETY: as above.
        unsafe { launch.launch(shape((2, 1), 32)) }.expect("launched");
        assert_eq!(device.stream.clone_dtoh(&y).expect("values")[..2], [107, 207]);
    });
}
