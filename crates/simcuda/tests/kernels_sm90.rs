//! Kernels that need compute capability 9.0: bulk copies with barriers, clusters, dependent launches.

mod common;
#[path = "common/device.rs"]
mod device;

use common::{code, driver_lines, under_simcuda};
use cudarc::driver::{CudaFunction, CudaStream, PushKernelArg, sys};
use device::{Device, Random, shape};
use sys::CUresult as Code;

const HOPPER: &[(&str, &str)] = &[("SIMCUDA_ARCH", "9.0")];

/// Launches with attributes, which only the raw call takes.
fn launch_with(
    stream: &CudaStream,
    function: &CudaFunction,
    (grid, block): (u32, u32),
    attributes: &mut [sys::CUlaunchAttribute],
    arguments: &mut [*mut std::ffi::c_void],
) -> Result<(), cudarc::driver::DriverError> {
    let config = sys::CUlaunchConfig {
        gridDimX: grid,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: block,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: 0,
        hStream: stream.cu_stream(),
        attrs: attributes.as_mut_ptr(),
        numAttrs: attributes.len() as u32,
    };
    // SAFETY: the callers pass one pointer for each parameter of the kernel, and all of it lives until the call returns.
    unsafe {
        sys::cuLaunchKernelEx(&config, function.cu_function(), arguments.as_mut_ptr(), std::ptr::null_mut()).result()
    }
}

fn cluster(blocks: u32) -> sys::CUlaunchAttribute {
    let mut value = sys::CUlaunchAttributeValue { pad: [0; 64] };
    value.clusterDim.x = blocks;
    value.clusterDim.y = 1;
    value.clusterDim.z = 1;
    sys::CUlaunchAttribute { id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION, pad: [0; 4], value }
}

/// The address of a value as a kernel argument.
fn argument<T>(value: &T) -> *mut std::ffi::c_void {
    std::ptr::from_ref(value).cast_mut().cast()
}

#[test]
fn warp_specialised_pipeline_matches_column_sums() {
    under_simcuda("warp_specialised_pipeline_matches_column_sums", HOPPER, || {
        let device = Device::with_kernels("pipeline_sm90");
        let function = device.function("pipeline_column_sums");
        for tiles in [1usize, 3, 4, 5, 33] {
            let x = Random::new(20).take(tiles * 256, |r| r.bits() as i32);
            let input = device.stream.clone_htod(&x).expect("input");
            let mut sums = device.stream.alloc_zeros::<i32>(256).expect("memory");
            let count = tiles as i32;
            let mut launch = device.stream.launch_builder(&function);
            launch.arg(&input).arg(&mut sums).arg(&count);
            // SAFETY: the arguments are those that the kernel's text lists.
            unsafe { launch.launch(shape((1, 1), 288)) }.expect("launched");
            let column = |c: usize| x.iter().skip(c).step_by(256).fold(0i32, |sum, &v| sum.wrapping_add(v));
            let expected: Vec<i32> = (0..256).map(column).collect();
            assert_eq!(device.stream.clone_dtoh(&sums).expect("sums"), expected, "{tiles} tiles");
        }
    });
}

#[test]
fn cluster_sums_match_plain_sums_for_every_cluster_size() {
    under_simcuda("cluster_sums_match_plain_sums_for_every_cluster_size", HOPPER, || {
        let device = Device::with_kernels("cluster_sm90");
        let function = device.function("cluster_sums");
        let per_block = 300i32;
        let x = Random::new(21).take(16 * 300, |r| r.bits() as i32);
        let input = device.stream.clone_htod(&x).expect("input");
        for size in [1u32, 2, 4, 8] {
            let mut totals = device.stream.alloc_zeros::<i32>(16).expect("memory");
            {
                let (from, _reading) = cudarc::driver::DevicePtr::device_ptr(&input, &device.stream);
                let (to, _writing) = cudarc::driver::DevicePtrMut::device_ptr_mut(&mut totals, &device.stream);
                let mut arguments = [argument(&from), argument(&to), argument(&per_block)];
                launch_with(&device.stream, &function, (16, 128), &mut [cluster(size)], &mut arguments)
                    .expect("launched");
            }
            let clusters = 16 / size as usize;
            let expected: Vec<i32> = x
                .chunks(300 * size as usize)
                .map(|slice| slice.iter().fold(0i32, |sum, &v| sum.wrapping_add(v)))
                .chain(std::iter::repeat_n(0, 16 - clusters))
                .collect();
            assert_eq!(device.stream.clone_dtoh(&totals).expect("sums"), expected, "clusters of {size}");
        }
    });
}

#[test]
fn cluster_shapes_match_the_limits_of_the_device() {
    let test = "cluster_shapes_match_the_limits_of_the_device";
    let stderr = under_simcuda(test, HOPPER, || {
        let device = Device::with_kernels("cluster_sm90");
        let function = device.function("cluster_sums");
        let memory = device.stream.alloc_zeros::<i32>(16).expect("memory");
        let (pointer, _guard) = cudarc::driver::DevicePtr::device_ptr(&memory, &device.stream);
        let none = 0i32;
        let try_launch = |grid, size| {
            let mut arguments = [argument(&pointer), argument(&pointer), argument(&none)];
            code(launch_with(&device.stream, &function, (grid, 128), &mut [cluster(size)], &mut arguments))
        };
        assert_eq!(try_launch(16, 16), Code::CUDA_ERROR_INVALID_CLUSTER_SIZE);
        assert_eq!(try_launch(16, 0), Code::CUDA_ERROR_INVALID_CLUSTER_SIZE);
        assert_eq!(try_launch(6, 4), Code::CUDA_ERROR_INVALID_VALUE);
        let mut attributes = [cluster(4)];
        let config = sys::CUlaunchConfig {
            gridDimX: 16,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: 1024,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: 0,
            hStream: std::ptr::null_mut(),
            attrs: attributes.as_mut_ptr(),
            numAttrs: 1,
        };
        let (mut largest, mut active) = (0, 0);
        // SAFETY: the configuration and its attribute live, and both results are integers.
        unsafe {
            sys::cuOccupancyMaxPotentialClusterSize(&mut largest, function.cu_function(), &config)
                .result()
                .expect("a size");
            sys::cuOccupancyMaxActiveClusters(&mut active, function.cu_function(), &config).result().expect("a count");
        }
        // The kernel is compiled for 128 threads, so not one block of 1024 fits.
        assert_eq!((largest, active), (8, 0));
        let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED;
        function.set_attribute(attribute, 1).expect("allowed");
        assert_eq!(try_launch(16, 16), Code::CUDA_SUCCESS);
        device.stream.synchronize().expect("run");
    });
    assert_eq!(driver_lines(&stderr).len(), 3, "{stderr}");
}

#[test]
fn dependent_launch_matches_stream_order() {
    under_simcuda("dependent_launch_matches_stream_order", HOPPER, || {
        let device = Device::with_kernels("cluster_sm90");
        let function = device.function("double_after_previous");
        let n = 100u32;
        let start: Vec<i32> = (0..100).collect();
        let mut x = device.stream.clone_htod(&start).expect("input");
        let mut value = sys::CUlaunchAttributeValue { pad: [0; 64] };
        value.programmaticStreamSerializationAllowed = 1;
        let id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
        for _ in 0..2 {
            let (pointer, _guard) = cudarc::driver::DevicePtrMut::device_ptr_mut(&mut x, &device.stream);
            let attribute = sys::CUlaunchAttribute { id, pad: [0; 4], value };
            let mut arguments = [argument(&pointer), argument(&n)];
            launch_with(&device.stream, &function, (4, 32), &mut [attribute], &mut arguments).expect("launched");
        }
        let expected: Vec<i32> = start.iter().map(|i| 2 * (2 * i + 1) + 1).collect();
        assert_eq!(device.stream.clone_dtoh(&x).expect("back"), expected);
    });
}

#[test]
fn newer_module_on_an_older_device_matches_invalid_ptx() {
    let stderr =
        under_simcuda("newer_module_on_an_older_device_matches_invalid_ptx", &[("SIMCUDA_ARCH", "8.0")], || {
            let context = cudarc::driver::CudaContext::new(0).expect("the simulated device");
            let ptx = cudarc::nvrtc::Ptx::from_src(common::kernel_ptx("cluster_sm90"));
            assert_eq!(code(context.load_module(ptx).map(drop)), Code::CUDA_ERROR_INVALID_PTX);
        });
    assert!(stderr.contains("expected a target up to sm_80, got sm_90"), "{stderr}");
}
