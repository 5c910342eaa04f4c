//! Streams and contexts of a device: what is used on one and made, refilled or dropped on another.
//!
//! The simulated device runs work as late as anything waits for it, so an order that nobody asked for is not given.

#[path = "common/mod.rs"]
mod common;
#[path = "common/device.rs"]
mod device_of_test;

use common::{Random, bits};
use device_of_test::device;
use moray::device::cudarc::driver::result::ctx::create_v4;
use moray::device::cudarc::driver::sys::{self, CUgraphInstantiate_flags, CUresult, CUstreamCaptureMode};
use moray::device::cudarc::driver::{CudaContext, CudaGraph, CudaSlice};
use moray::w4a8::{self, Format, PackedWeight, cuda};
use moray::{Cpu, Device, Error, Result};
use std::sync::Arc;

const M: usize = 3;
const N: usize = 48;
const K: usize = 128;

/// A multiplication with the result that it must have.
struct Case {
    packed: PackedWeight,
    x: Vec<f32>,
    expected: Vec<f32>,
}

impl Case {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let (w, x) = (random.weights(N * K, 0.1), random.weights(M * K, 1.0));
        let packed = PackedWeight::pack(&w4a8::quantize(&w, N, K, Format::per_channel()).unwrap());
        let (cpu, mut quantized, mut expected) = (Cpu::detect(), w4a8::Activations::default(), vec![0.0; M * N]);
        quantized.quantize(&cpu, &x, M, K).unwrap();
        w4a8::linear(&cpu, &packed, &quantized, w4a8::Epilogue::default(), &mut expected).unwrap();
        Case { packed, x, expected }
    }

    fn weight(&self, device: &Device) -> cuda::Weight {
        cuda::Weight::upload(device, &self.packed).unwrap()
    }
}

/// What a stream needs of its own to multiply.
struct Room {
    device: Device,
    activations: cuda::Activations,
    workspace: cuda::Workspace,
    y: CudaSlice<f32>,
}

impl Room {
    fn new(device: Device) -> Self {
        Room {
            activations: cuda::Activations::with_capacity(&device, M, K).unwrap(),
            workspace: cuda::Workspace::new(&device).unwrap(),
            y: device.zeros(M * N).unwrap(),
            device,
        }
    }

    fn quantize(&mut self, case: &Case) {
        let x = self.device.upload(&case.x).unwrap();
        self.activations.quantize(&self.device, &x.as_view(), M, K).unwrap();
    }

    fn multiply(&mut self, weight: &cuda::Weight) -> Result<()> {
        linear(&self.device, weight, &self.activations, &mut self.y, &mut self.workspace)
    }

    fn result(&self) -> Vec<u32> {
        bits(&self.device.download(&self.y).unwrap())
    }
}

fn linear(
    device: &Device,
    weight: &cuda::Weight,
    x: &cuda::Activations,
    y: &mut CudaSlice<f32>,
    workspace: &mut cuda::Workspace,
) -> Result<()> {
    cuda::linear(device, weight, x, cuda::Epilogue::default(), &mut y.as_view_mut(), workspace)
}

/// The same device with another stream: one that cudarc counts, one that it does not, and one of a second opening.
fn others(device: &Device) -> [Device; 3] {
    let counted = device.on_stream(device.context().new_stream().unwrap()).unwrap();
    let uncounted = device_of_test::device().unwrap();
    let default = uncounted.on_stream(uncounted.context().default_stream()).unwrap();
    [counted, default, uncounted]
}

#[test]
fn weight_that_another_stream_uses_at_once_has_arrived() {
    let Some(_) = device() else { return };
    for other in 0..3 {
        let device = device().unwrap();
        let case = Case::new(1);
        let mut room = Room::new(others(&device)[other].clone());
        room.quantize(&case);
        room.device.synchronize().unwrap();
        let weight = case.weight(&device);
        room.multiply(&weight).unwrap();
        assert_eq!(room.result(), bits(&case.expected), "stream {other}");
    }
}

#[test]
fn weight_that_is_dropped_stays_until_every_stream_has_read_it() {
    let Some(_) = device() else { return };
    for other in 0..3 {
        let device = device().unwrap();
        let case = Case::new(2);
        let (mut first, mut second) =
            (Room::new(others(&device)[other].clone()), Room::new(others(&device)[0].clone()));
        first.quantize(&case);
        second.quantize(&case);
        let weight = case.weight(&device);
        device.synchronize().unwrap();
        first.multiply(&weight).unwrap();
        second.multiply(&weight).unwrap();
        drop(weight);
        device.synchronize().unwrap();
        second.device.synchronize().unwrap();
        assert_eq!(first.result(), bits(&case.expected), "stream {other}");
        assert_eq!(second.result(), bits(&case.expected), "stream {other}");
    }
}

#[test]
fn activations_that_another_stream_refills_are_read_before() {
    let Some(_) = device() else { return };
    for other in 0..3 {
        let device = device().unwrap();
        let (case, next) = (Case::new(3), Case::new(4));
        let other = others(&device)[other].clone();
        let mut room = Room::new(device);
        let weight = case.weight(&room.device);
        let refill = other.upload(&next.x).unwrap();
        room.quantize(&case);
        room.multiply(&weight).unwrap();
        room.activations.quantize(&other, &refill.as_view(), M, K).unwrap();
        other.synchronize().unwrap();
        assert_eq!(room.result(), bits(&case.expected), "{other:?}");
        let weight = next.weight(&room.device);
        room.multiply(&weight).unwrap();
        assert_eq!(room.result(), bits(&next.expected), "{other:?}");
    }
}

#[test]
fn result_that_cudarc_copies_on_another_stream_is_whole() {
    let Some(device) = device() else { return };
    let case = Case::new(5);
    let stream = device.context().new_stream().unwrap();
    let mut room = Room::new(device);
    let weight = case.weight(&room.device);
    room.quantize(&case);
    room.multiply(&weight).unwrap();
    assert_eq!(bits(&stream.clone_dtoh(&room.y).unwrap()), bits(&case.expected));
}

/// Captures a multiplication, or says why not.
fn capture(room: &mut Room, weight: &cuda::Weight) -> Result<CudaGraph> {
    let stream = room.device.stream().clone();
    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    let captured = room.multiply(weight);
    let graph = stream.end_capture(CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH).unwrap();
    captured.map(|()| graph.unwrap())
}

#[test]
fn capture_takes_memory_of_its_stream_beside_others_and_refuses_that_of_another() {
    let Some(device) = device() else { return };
    let case = Case::new(6);
    let [other, ..] = others(&device);
    let foreign = case.weight(&device);
    let mut room = Room::new(other);
    let weight = case.weight(&room.device);
    room.quantize(&case);
    let graph = capture(&mut room, &weight).unwrap();
    graph.launch().unwrap();
    assert_eq!(room.result(), bits(&case.expected));
    let Err(error) = capture(&mut room, &foreign) else { panic!("a capture of another stream's memory") };
    let expected = "memory of the stream that is captured";
    assert_eq!(error, Error::Unsupported { what: "weight", expected, got: "that of another stream".into() });
    room.multiply(&foreign).unwrap();
    assert_eq!(room.result(), bits(&case.expected));
}

#[test]
fn capture_takes_memory_of_another_stream_where_the_engine_orders_its_streams() {
    let Some(_) = device() else { return };
    let case = Case::new(7);
    let context = CudaContext::new(0).unwrap();
    // SAFETY: the test waits for one stream before it uses what it made on another.
    unsafe { context.disable_event_tracking() };
    let device = Device::with_stream(context.new_stream().unwrap()).unwrap();
    let weight = case.weight(&device);
    device.synchronize().unwrap();
    let mut room = Room::new(device.on_stream(context.new_stream().unwrap()).unwrap());
    room.quantize(&case);
    capture(&mut room, &weight).unwrap().launch().unwrap();
    assert_eq!(room.result(), bits(&case.expected));
}

#[test]
fn devices_of_one_context_share_kernels_and_one_stream_is_handed_out_once() {
    let Some(device) = device() else { return };
    let again = Device::new(0).unwrap();
    let function = |device: &Device| std::ptr::from_ref(device.function("w4a8/quantize", "w4a8_quantize_f32").unwrap());
    assert_eq!(function(&device), function(&again));
    let engine = Device::with_stream(CudaContext::new(0).unwrap().new_stream().unwrap()).unwrap();
    assert_eq!(function(&device), function(&engine));
    assert_ne!(device.stream().cu_stream(), again.stream().cu_stream());
    // memory holds on to its stream
    let (memory, first) = (again.upload(&[1u32, 2]).unwrap(), again.stream().cu_stream());
    drop(again);
    assert_ne!(Device::new(0).unwrap().stream().cu_stream(), first);
    assert_eq!(device.download(&memory).unwrap(), [1, 2]);
}

#[test]
fn device_on_one_stream_leaves_its_context_to_cudarc_as_one_of_a_single_stream() {
    let Some(device) = device() else { return };
    assert!(!device.context().is_in_multi_stream_mode() && device.context().is_event_tracking());
}

/// Checks a driver's answer.
fn ok(code: CUresult) {
    assert_eq!(code, CUresult::CUDA_SUCCESS);
}

#[test]
fn context_of_an_engine_by_its_handle_outlives_the_device() {
    let Some(_) = device() else { return };
    let case = Case::new(8);
    let (mut stream, mut current) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: the handles are used as the driver's interface says, and the context is destroyed after all of its users.
    unsafe {
        let context = create_v4(std::ptr::null_mut(), 0, 0).unwrap();
        ok(sys::cuStreamCreate(&mut stream, 1));
        for _ in 0..2 {
            let device = Device::from_raw(context.cast(), stream.cast()).unwrap();
            assert_eq!(device.stream().cu_stream(), stream);
            let mut room = Room::new(device);
            let weight = case.weight(&room.device);
            room.quantize(&case);
            room.multiply(&weight).unwrap();
            assert_eq!(room.result(), bits(&case.expected));
        }
        ok(sys::cuCtxGetCurrent(&mut current));
        assert_eq!(current, context);
        ok(sys::cuStreamSynchronize(stream));
        ok(sys::cuStreamDestroy_v2(stream));
        ok(sys::cuCtxDestroy_v2(context));
    }
}

#[test]
fn context_of_an_engine_in_cudarc_is_the_engines_when_the_device_is_dropped() {
    let Some(_) = device() else { return };
    let context = CudaContext::new(0).unwrap();
    let held = Arc::strong_count(&context);
    drop(Device::with_stream(context.default_stream()).unwrap());
    assert!(Arc::strong_count(&context) <= held + 1);
    assert_eq!(
        context.default_stream().clone_dtoh(&context.default_stream().clone_htod(&[7u32]).unwrap()).unwrap(),
        [7]
    );
}
