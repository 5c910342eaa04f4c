//! Calls in a graph: captured once, replayed with new activations.

use crate::common::{Random, bits};
use crate::device::device;
use crate::weights::random_weight;
use moray::Cpu;
use moray::device::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use moray::w4a8::cuda::{self, Variant};
use moray::w4a8::{Activations, Epilogue, PackedWeight, linear};

#[test]
fn captured_calls_match_cpu_when_replayed_with_new_activations() {
    let Some(device) = device() else { return };
    let (cpu, mut random) = (Cpu::detect(), Random::new(30));
    let (m, n, k) = (7, 80, 1024);
    let packed = PackedWeight::pack(&random_weight(&mut random, 7, n, k));
    let weight = cuda::Weight::upload(&device, &packed).unwrap();
    let mut activations = cuda::Activations::with_capacity(&device, m, k).unwrap();
    let mut workspace = cuda::Workspace::new(&device).unwrap();
    let mut x = device.zeros::<f32>(m * k).unwrap();
    let mut y = device.zeros::<f32>(m * n).unwrap();

    let stream = device.stream();
    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    activations.quantize(&device, &x.as_view(), m, k).unwrap();
    // two blocks share a tile's K, so the workspace must be left as it was found
    let (variant, epilogue) = (Variant::Gemm { tokens: 16, blocks: 2 }, cuda::Epilogue::default());
    cuda::linear_with(&device, variant, &weight, &activations, epilogue, &mut y.as_view_mut(), &mut workspace).unwrap();
    let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = stream.end_capture(flags).unwrap().unwrap();

    for _ in 0..3 {
        let host = random.weights(m * k, 1.0);
        stream.memcpy_htod(&host, &mut x).unwrap();
        graph.launch().unwrap();
        let mut expected = vec![0.0f32; m * n];
        let mut quantized = Activations::default();
        quantized.quantize(&cpu, &host, m, k).unwrap();
        linear(&cpu, &packed, &quantized, Epilogue::default(), &mut expected).unwrap();
        assert_eq!(bits(&device.download(&y).unwrap()), bits(&expected));
    }
}
