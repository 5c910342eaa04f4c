//! Calls that programs find by name: cuGetProcAddress, libraries, and graphs put together node by node.

mod common;

use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::{null, null_mut};
use std::sync::Arc;

use common::{kernel_ptx, open, under_simcuda};
use cudarc::driver::{CudaStream, DevicePtrMut};

/// A function of the driver with the type that the caller gives it.
fn symbol<F: Copy>(name: &str) -> F {
    // SAFETY: the library is the simulated driver, whose only initialiser is Rust's; the type is the caller's affair.
    unsafe {
        let library = Box::leak(Box::new(libloading::Library::new("libcuda.so.1").expect("on the library path")));
        *library.get::<F>(name.as_bytes()).unwrap_or_else(|e| panic!("{name}: {e}"))
    }
}

/// Calls a driver function by name and expects a code.
macro_rules! driver {
    ($expected:expr, $name:ident($($value:expr => $type:ty),* $(,)?)) => {{
        let function: unsafe extern "C" fn($($type),*) -> i32 = symbol(stringify!($name));
        // SAFETY: the types are those of the CUDA headers, and pointers are to values of this test.
        assert_eq!(unsafe { function($($value),*) }, $expected, stringify!($name));
    }};
}

/// What cuGetProcAddress_v2 says of a name: its code, the address and the status.
fn look_up(name: &str, version: i32) -> (i32, usize, i32) {
    type GetProcAddress = unsafe extern "C" fn(*const c_char, *mut usize, i32, u64, *mut i32) -> i32;
    let (name, mut found, mut status) = (CString::new(name).expect("a name"), 1, -1);
    // SAFETY: as in `driver`.
    let code =
        unsafe { symbol::<GetProcAddress>("cuGetProcAddress_v2")(name.as_ptr(), &mut found, version, 0, &mut status) };
    (code, found, status)
}

#[test]
fn names_of_what_is_not_implemented_are_not_found() {
    under_simcuda("names_of_what_is_not_implemented_are_not_found", &[], || {
        let address = |name: &str| symbol::<*const c_void>(name) as usize;
        assert_eq!(look_up("cuMemAlloc", 12000), (0, address("cuMemAlloc_v2"), 0));
        assert_eq!(look_up("cuTexObjectCreate", 12000), (500, 0, 1), "a stub");
        assert_eq!(look_up("cuNoSuchThing", 12000), (500, 0, 1));
        // The variant is that of the version asked for.
        for (version, variant) in
            [(3020, "cuCtxCreate_v2"), (12000, "cuCtxCreate_v3"), (12050, "cuCtxCreate_v4"), (13000, "cuCtxCreate_v4")]
        {
            assert_eq!(look_up("cuCtxCreate", version), (0, address(variant), 0), "{version}");
        }
        assert_eq!(look_up("cuCtxCreate", 3010), (500, 0, 2), "it came later");
        assert_eq!(look_up("cuGraphInstantiate", 12000).1, address("cuGraphInstantiateWithFlags"));
        let mut found = 0usize;
        driver!(0, cuGetProcAddress(c"cuCtxSynchronize".as_ptr() => *const c_char, &mut found => *mut usize, 12000 => i32, 0 => u64));
        assert_eq!(found, address("cuCtxSynchronize"));
        assert_eq!(look_up("cuCtxSynchronize", 13000).1, address("cuCtxSynchronize_v2"));
    });
}

#[test]
fn contexts_are_asked_for_by_handle_too() {
    under_simcuda("contexts_are_asked_for_by_handle_too", &[], || {
        let (context, _) = open();
        let handle = context.cu_ctx() as usize;
        for handle in [handle, 0] {
            let mut device = 7;
            driver!(0, cuCtxGetDevice_v2(&mut device => *mut i32, handle => usize));
            assert_eq!(device, 0);
            driver!(0, cuCtxSynchronize_v2(handle => usize));
        }
        driver!(201, cuCtxSynchronize_v2(12345 => usize));
        let mut value = 0;
        driver!(0, cuDeviceGetAttribute(&mut value => *mut i32, 89 => i32, 0 => i32));
        assert_eq!(value, 1, "managed memory beside a running kernel");
    });
}

/// The values 0 to 31 on the device.
fn ramp(stream: &Arc<CudaStream>) -> cudarc::driver::CudaSlice<f32> {
    stream.clone_htod(&(0..32).map(|i| i as f32).collect::<Vec<_>>()).expect("data")
}

#[test]
fn library_kernels_launch_in_the_current_context() {
    under_simcuda("library_kernels_launch_in_the_current_context", &[], || {
        let (context, stream) = open();
        let ptx = CString::new(kernel_ptx("vector_add")).expect("text");
        let (mut library, mut kernel, mut function, mut module) = (0usize, 0usize, 0usize, 0usize);
        let none = null_mut::<c_void>();
        driver!(0, cuLibraryLoadData(
            &mut library => *mut usize, ptx.as_ptr() => *const c_char, none => *mut c_void, none => *mut c_void, 0 => u32,
            none => *mut c_void, none => *mut c_void, 0 => u32
        ));
        driver!(500, cuLibraryGetKernel(&mut kernel => *mut usize, library => usize, c"nothing".as_ptr() => *const c_char));
        driver!(0, cuLibraryGetKernel(&mut kernel => *mut usize, library => usize, c"scale_in_place".as_ptr() => *const c_char));
        let (mut count, mut kernels) = (0u32, [0usize; 8]);
        driver!(0, cuLibraryGetKernelCount(&mut count => *mut u32, library => usize));
        driver!(0, cuLibraryEnumerateKernels(kernels.as_mut_ptr() => *mut usize, 8 => u32, library => usize));
        assert!(kernels[..count as usize].contains(&kernel) && kernels[count as usize] == 0, "{kernels:x?}");
        let mut name = null::<c_char>();
        driver!(0, cuKernelGetName(&mut name => *mut *const c_char, kernel => usize));
        // SAFETY: the library gave the terminated name and is still loaded.
        assert_eq!(unsafe { CStr::from_ptr(name) }, c"scale_in_place");
        driver!(0, cuKernelGetFunction(&mut function => *mut usize, kernel => usize));
        driver!(0, cuLibraryGetModule(&mut module => *mut usize, library => usize));
        let mut same = 0usize;
        driver!(0, cuModuleGetFunction(&mut same => *mut usize, module => usize, c"scale_in_place".as_ptr() => *const c_char));
        assert_eq!(same, function);
        let (mut threads, mut offset, mut size) = (0, 0usize, 0usize);
        driver!(0, cuKernelGetAttribute(&mut threads => *mut i32, 0 => i32, kernel => usize, 0 => i32));
        assert_eq!(threads, 1024);
        driver!(0, cuKernelSetAttribute(8 => i32, 60000 => i32, kernel => usize, 0 => i32));
        driver!(0, cuKernelGetParamInfo(kernel => usize, 3 => usize, &mut offset => *mut usize, &mut size => *mut usize));
        assert_eq!((offset, size), (16, 4));
        driver!(0, cuFuncGetAttribute(&mut threads => *mut i32, 8 => i32, function => usize));
        assert_eq!(threads, 60000, "set for the kernel, read of its function");
        // Both handles launch.
        let mut data = ramp(&stream);
        for handle in [kernel, function] {
            let (ptr, _guard) = data.device_ptr_mut(&stream);
            let (factor, bias, n) = (2f32, 1f32, 32u32);
            let mut arguments: [*const c_void; 4] =
                [(&raw const ptr).cast(), (&raw const factor).cast(), (&raw const bias).cast(), (&raw const n).cast()];
            driver!(0, cuLaunchKernel(
                handle => usize, 1 => u32, 1 => u32, 1 => u32, 32 => u32, 1 => u32, 1 => u32, 0 => u32,
                stream.cu_stream() as usize => usize, arguments.as_mut_ptr() => *mut *const c_void, none => *mut c_void
            ));
        }
        assert_eq!(stream.clone_dtoh(&data).expect("back")[5], (5.0 * 2.0 + 1.0) * 2.0 + 1.0);
        driver!(0, cuLibraryUnload(library => usize));
        driver!(400, cuKernelGetFunction(&mut function => *mut usize, kernel => usize));
        context.synchronize().expect("no error on the way");
    });
}

/// `CUDA_KERNEL_NODE_PARAMS_v2`.
#[repr(C)]
struct KernelParams {
    function: usize,
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: u32,
    params: *mut *const c_void,
    extra: *mut c_void,
    kernel: usize,
    context: usize,
}

/// `CUDA_MEMSET_NODE_PARAMS`.
#[repr(C)]
struct FillParams {
    dst: u64,
    pitch: usize,
    value: u32,
    element_bytes: u32,
    width: usize,
    height: usize,
}

/// `CUDA_MEMCPY3D`, one end and the whole.
#[repr(C)]
#[derive(Default)]
struct CopyEnd {
    place: [usize; 4],
    kind: u32,
    host: usize,
    device: u64,
    rest: [usize; 4],
}

#[repr(C)]
struct CopyParams {
    ends: [CopyEnd; 2],
    extent: [usize; 3],
}

unsafe extern "C" fn count_up(argument: *mut c_void) {
    // SAFETY: the test passes a counter that lives until the graph has run.
    unsafe { *argument.cast::<u32>() += 1 };
}

#[test]
fn graphs_built_node_by_node_match_their_edges() {
    let test = "graphs_built_node_by_node_match_their_edges";
    for order in ["lazy", "eager", "seed:1", "seed:3"] {
        under_simcuda(test, &[("SIMCUDA_ORDER", order)], || {
            let (_context, stream) = open();
            let mut library = (0usize, 0usize);
            let (text, none) = (CString::new(kernel_ptx("vector_add")).expect("text"), null_mut::<c_void>());
            driver!(0, cuLibraryLoadData(
                &mut library.0 => *mut usize, text.as_ptr() => *const c_char, none => *mut c_void, none => *mut c_void,
                0 => u32, none => *mut c_void, none => *mut c_void, 0 => u32
            ));
            driver!(0, cuLibraryGetKernel(&mut library.1 => *mut usize, library.0 => usize, c"scale_in_place".as_ptr() => *const c_char));
            let mut data = ramp(&stream);
            stream.synchronize().expect("written");
            let ptr = data.device_ptr_mut(&stream).0;
            let (factor, bias, n) = (1f32, 3f32, 32u32);
            let mut arguments: [*const c_void; 4] =
                [(&raw const ptr).cast(), (&raw const factor).cast(), (&raw const bias).cast(), (&raw const n).cast()];
            let mut kernel = KernelParams {
                function: 0,
                grid: [1; 3],
                block: [32, 1, 1],
                shared_bytes: 0,
                params: arguments.as_mut_ptr(),
                extra: none,
                kernel: library.1,
                context: 0,
            };
            let (mut landing, mut calls) = ([0f32; 32], 0u32);
            let mut copy = CopyParams { ends: Default::default(), extent: [128, 1, 1] };
            (copy.ends[0].kind, copy.ends[0].device) = (2, ptr);
            (copy.ends[1].kind, copy.ends[1].host) = (1, landing.as_mut_ptr() as usize);
            let fill = FillParams { dst: ptr, pitch: 0, value: 1f32.to_bits(), element_bytes: 4, width: 8, height: 1 };
            let host: (unsafe extern "C" fn(*mut c_void), *mut c_void) = (count_up, (&raw mut calls).cast());
            // Fill, then the kernel, then the copy and the host function; the last edges are added later.
            let (mut graph, mut nodes) = (0usize, [0usize; 5]);
            driver!(0, cuGraphCreate(&mut graph => *mut usize, 0 => u32));
            let params = (&raw const kernel).cast::<c_void>();
            driver!(0, cuGraphAddKernelNode_v2(&mut nodes[1] => *mut usize, graph => usize, null() => *const usize, 0 => usize, params => *const c_void));
            driver!(0, cuGraphAddMemsetNode(
                &mut nodes[0] => *mut usize, graph => usize, null() => *const usize, 0 => usize, &fill => *const FillParams, 0 => usize
            ));
            driver!(0, cuGraphAddMemcpyNode(
                &mut nodes[2] => *mut usize, graph => usize, &nodes[1] => *const usize, 1 => usize, &copy => *const CopyParams, 0 => usize
            ));
            driver!(0, cuGraphAddHostNode(
                &mut nodes[3] => *mut usize, graph => usize, &nodes[2] => *const usize, 1 => usize, (&raw const host).cast() => *const c_void
            ));
            driver!(0, cuGraphAddEmptyNode(&mut nodes[4] => *mut usize, graph => usize, nodes.as_ptr() => *const usize, 4 => usize));
            driver!(0, cuGraphAddDependencies(graph => usize, &nodes[0] => *const usize, &nodes[1] => *const usize, 1 => usize));
            driver!(1, cuGraphAddDependencies(graph => usize, &nodes[0] => *const usize, &nodes[1] => *const usize, 1 => usize));
            driver!(1, cuGraphAddDependencies(graph => usize, &nodes[3] => *const usize, &nodes[0] => *const usize, 1 => usize));
            let (mut from, mut to, mut count) = ([0usize; 9], [0usize; 9], 9usize);
            driver!(0, cuGraphGetEdges(graph => usize, from.as_mut_ptr() => *mut usize, to.as_mut_ptr() => *mut usize, &mut count => *mut usize));
            assert_eq!(count, 7);
            assert!((0..7).any(|e| (from[e], to[e]) == (nodes[0], nodes[1])));
            driver!(0, cuGraphNodeGetDependencies(nodes[3] => usize, from.as_mut_ptr() => *mut usize, &mut count => *mut usize));
            assert_eq!((count, from[0]), (1, nodes[2]));
            driver!(0, cuGraphDestroyNode(nodes[4] => usize));
            let mut exec = 0usize;
            driver!(0, cuGraphInstantiateWithFlags(&mut exec => *mut usize, graph => usize, 0 => u64));
            let expected =
                |add: f32| std::array::from_fn::<f32, 32, _>(|i| if i < 8 { 1.0 + add } else { i as f32 + add });
            driver!(0, cuGraphLaunch(exec => usize, stream.cu_stream() as usize => usize));
            stream.synchronize().expect("run");
            assert_eq!((landing, calls), (expected(3.0), 1));
            // Other arguments for later launches, and a graph inside another.
            let bias = 5f32;
            arguments[2] = (&raw const bias).cast();
            kernel.params = arguments.as_mut_ptr();
            let params = (&raw const kernel).cast::<c_void>();
            driver!(0, cuGraphExecKernelNodeSetParams_v2(exec => usize, nodes[1] => usize, params => *const c_void));
            driver!(1, cuGraphExecKernelNodeSetParams_v2(exec => usize, nodes[0] => usize, params => *const c_void));
            driver!(0, cuGraphLaunch(exec => usize, stream.cu_stream() as usize => usize));
            stream.synchronize().expect("run");
            assert_eq!(landing[20], 20.0 + 3.0 + 5.0);
            let (mut outer, mut child) = (0usize, 0usize);
            driver!(0, cuGraphCreate(&mut outer => *mut usize, 0 => u32));
            driver!(0, cuGraphAddChildGraphNode(&mut child => *mut usize, outer => usize, null() => *const usize, 0 => usize, graph => usize));
            driver!(0, cuGraphInstantiateWithFlags(&mut exec => *mut usize, outer => usize, 0 => u64));
            driver!(0, cuGraphLaunch(exec => usize, stream.cu_stream() as usize => usize));
            stream.synchronize().expect("run");
            assert_eq!((landing[20], calls), (20.0 + 3.0 + 5.0 + 3.0, 3));
        });
    }
}
