//! An ordinary cudarc program: context, copies, module, launch, events, and a graph that is replayed.
//!
//! Nothing in it knows of the simulated device. It runs on a GPU as it is, and without one under
//! `cargo xtask simcuda run cargo run -p simcuda --example graph_replay`.

use std::error::Error;

use cudarc::driver::sys::{CUevent_flags, CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaContext, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;

/// Adds two vectors, then runs x ← 0.5·x + 1 ten times by replaying a graph.
pub fn main() -> Result<(), Box<dyn Error>> {
    let context = CudaContext::new(0)?;
    let (major, minor) = context.compute_capability()?;
    println!("device: {} (compute capability {major}.{minor})", context.name()?);

    // SAFETY: everything below uses one stream, which keeps its order. Tracking would make the captured kernel wait for
    // events recorded before the capture, which the driver refuses.
    unsafe { context.disable_event_tracking() };
    let stream = context.new_stream()?;
    let module = context.load_module(Ptx::from_src(include_str!("../kernels/vector_add.ptx")))?;
    let (add, scale) = (module.load_function("vector_add")?, module.load_function("scale_in_place")?);

    const N: u32 = 1 << 16;
    let a: Vec<f32> = (0..N).map(|i| i as f32).collect();
    let b = vec![0.5f32; N as usize];
    let (a_gmem, b_gmem) = (stream.clone_htod(&a)?, stream.clone_htod(&b)?);
    let mut x = stream.alloc_zeros::<f32>(N as usize)?;

    let start = stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT))?;
    let mut launch = stream.launch_builder(&add);
    launch.arg(&a_gmem).arg(&b_gmem).arg(&mut x).arg(&N);
    // SAFETY: `vector_add` takes three vectors of N floats and their length.
    unsafe { launch.launch(LaunchConfig::for_num_elems(N)) }?;
    let end = stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT))?;
    println!("vector_add of {N} elements: {:.3} ms", start.elapsed_ms(&end)?);

    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
    let mut launch = stream.launch_builder(&scale);
    launch.arg(&mut x).arg(&0.5f32).arg(&1.0f32).arg(&N);
    // SAFETY: `scale_in_place` takes a vector of N floats, two factors and the length.
    unsafe { launch.launch(LaunchConfig::for_num_elems(N)) }?;
    let graph = stream.end_capture(CUgraphInstantiate_flags(0))?.ok_or("expected a graph with one kernel")?;
    for _ in 0..10 {
        graph.launch()?;
    }

    let result = stream.clone_dtoh(&x)?;
    let expected = |i: usize| (0..10).fold(a[i] + b[i], |x: f32, _| x.mul_add(0.5, 1.0));
    let wrong = (0..N as usize).filter(|&i| result[i] != expected(i)).count();
    println!("replayed 10 times, {wrong} of {N} elements differ from the CPU");
    if wrong == 0 { Ok(()) } else { Err("the results differ".into()) }
}
