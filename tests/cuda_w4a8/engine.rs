//! Weights and activations in memory of an engine: taken by address, filled in through raw calls, and left to the engine.

use crate::common::{Random, bits};
use crate::device::{device, metered};
use crate::weights::random_weight;
use half::{bf16, f16};
use moray::device::cudarc::driver::{CudaSlice, DevicePtr};
use moray::device::{Address, Device, DeviceElement, ElementKind, RawCall};
use moray::llama::rms_norm;
use moray::sparse_mlp::{Activation, activate_product};
use moray::w4a8::cuda::raw::{self, Quantize, Source};
use moray::w4a8::cuda::{self, Architecture, Variant};
use moray::w4a8::{self, ActScales, LAYOUT_VERSION, PackedWeight, Sections, linear};
use moray::{Cpu, Error};

const M: usize = 7;
const N: usize = 80;
const K: usize = 1024;

/// The address of memory that the engine keeps.
fn at<T, U>(device: &Device, memory: &CudaSlice<T>) -> Address<U> {
    Address::new(memory.device_ptr(device.stream()).0)
}

/// A weight's sections in memory of the engine's, and what is multiplied with them.
struct Engine {
    packed: PackedWeight,
    sections: Sections<Option<CudaSlice<u8>>>,
    x: Vec<f32>,
    expected: Vec<f32>,
}

impl Engine {
    fn new(device: &Device, kind: usize, scales: ActScales) -> Self {
        let (cpu, mut random) = (Cpu::detect(), Random::new(70 + kind as u64));
        let packed = PackedWeight::pack(&random_weight(&mut random, kind, N, K));
        let upload = |bytes: &[u8]| (!bytes.is_empty()).then(|| device.upload(bytes).unwrap());
        let sections = packed.view().sections().map(upload);
        let (x, mut expected) = (random.weights(M * K, 1.0), vec![0.0; M * N]);
        let mut quantized = w4a8::Activations::default();
        quantized.set_scales(scales);
        quantized.quantize(&cpu, &x, M, K).unwrap();
        linear(&cpu, &packed, &quantized, w4a8::Epilogue::default(), &mut expected).unwrap();
        Engine { packed, sections, x, expected }
    }

    fn addresses(&self, device: &Device) -> Sections<Address> {
        self.sections.as_ref().map(|section| section.as_ref().map_or(Address::NULL, |section| at(device, section)))
    }
}

#[test]
fn weight_in_an_engines_memory_matches_cpu_and_stays_there() {
    let Some(device) = device() else { return };
    for kind in 0..9 {
        let engine = Engine::new(&device, kind, ActScales::Token);
        let format = engine.packed.format();
        let sections = engine.addresses(&device);
        // SAFETY: the sections are those of the format, in order on the device's stream, and outlive the weight.
        let weight = unsafe { cuda::Weight::lent(&device, format, N, K, LAYOUT_VERSION, sections) }.unwrap();
        assert_eq!((weight.bytes(), weight.addresses()), (engine.packed.bytes(), sections), "{format:?}");
        let mut activations = cuda::Activations::with_capacity(&device, M, K).unwrap();
        let mut workspace = cuda::Workspace::new(&device).unwrap();
        let mut y = device.zeros::<f32>(M * N).unwrap();
        let x = device.upload(&engine.x).unwrap();
        activations.quantize(&device, &x.as_view(), M, K).unwrap();
        let epilogue = cuda::Epilogue::default();
        cuda::linear(&device, &weight, &activations, epilogue, &mut y.as_view_mut(), &mut workspace).unwrap();
        drop(weight);
        assert_eq!(bits(&device.download(&y).unwrap()), bits(&engine.expected), "{format:?}");
        let codes = device.download(engine.sections.codes.as_ref().unwrap()).unwrap();
        assert_eq!(codes, engine.packed.view().sections().codes, "{format:?}");
    }
}

#[test]
fn raw_calls_on_an_engines_memory_match_cpu() {
    let Some(device) = device() else { return };
    let stream = device.raw_stream();
    for (kind, scales) in (0..9).flat_map(|kind| [(kind, ActScales::Token), (kind, ActScales::Fine)]) {
        let engine = Engine::new(&device, kind, scales);
        let format = engine.packed.format();
        let x = device.upload(&engine.x).unwrap();
        let (codes, scale) = (device.zeros::<i8>(M * K).unwrap(), device.zeros::<f32>(M * scales.of_token(K)).unwrap());
        let sums = [32, 64, 128].map(|group| device.zeros::<i32>(M * K / group).unwrap());
        let (totals, y) = (device.zeros::<i32>(M).unwrap(), device.zeros::<f32>(M * N).unwrap());
        let quantize = Quantize {
            source: Source::Plain,
            m: M,
            k: K,
            x: at(&device, &x),
            element: ElementKind::F32,
            codes: at(&device, &codes),
            scales,
            scale: at(&device, &scale),
            sums: sums.each_ref().map(|sums| at(&device, sums)),
            totals: at(&device, &totals),
        };
        let group = format.group_size().filter(|_| !format.stays_integer());
        let group = group.or((scales == ActScales::Fine).then_some(128));
        let level = group.map(|group| group.ilog2() as usize - 5);
        let mut multiply = raw::Linear {
            format,
            variant: Variant::choose(Architecture::of(&device), format, scales, M, N, K),
            m: M,
            n: N,
            k: K,
            layout: LAYOUT_VERSION,
            weight: engine.addresses(&device),
            x: at(&device, &codes),
            act_scales: scales,
            act_scale: at(&device, &scale),
            sums: at(&device, level.map_or(&totals, |level| &sums[level])),
            bias: None,
            residual: None,
            y: at(&device, &y),
            element: ElementKind::F32,
            partial: Address::NULL,
            arrived: Address::NULL,
        };
        let partial = device.zeros::<u8>(multiply.workspace_bytes()).unwrap();
        let arrived = device.zeros::<u8>(multiply.counter_bytes()).unwrap();
        if multiply.workspace_bytes() > 0 {
            assert!(multiply.check(&device).is_err(), "{format:?}");
            (multiply.partial, multiply.arrived) = (at(&device, &partial), at(&device, &arrived));
        }
        // SAFETY: the memory is as large as the fields say, and is there until the stream has been waited for below.
        unsafe {
            quantize.launch(&device, stream).unwrap();
            multiply.launch(&device, stream).unwrap();
        }
        assert_eq!(bits(&device.download(&y).unwrap()), bits(&engine.expected), "{format:?}");
        for left in [&partial, &arrived] {
            assert!(device.download(left).unwrap().iter().all(|&byte| byte == 0), "{format:?}");
        }
    }
}

#[test]
fn product_of_few_tokens_is_one_launch_with_the_bits_of_two() {
    let name = "engine::product_of_few_tokens_is_one_launch_with_the_bits_of_two";
    let all = metered(name, |device| {
        for (kind, scales) in
            [(0, ActScales::Token), (1, ActScales::Token), (4, ActScales::Token), (0, ActScales::Fine)]
        {
            let engine = Engine::new(device, kind, scales);
            let x = device.upload(&engine.x).unwrap();
            for m in 1..=4 {
                let y = device.zeros::<f32>(m * N).unwrap();
                let (sections, x_at, y_at) = (engine.addresses(device), at(device, &x), at(device, &y));
                let mut call = raw::Product::new(m, &engine.packed, sections, x_at, y_at, ElementKind::F32);
                call.act_scales = scales;
                call.workspace_bytes = call.workspace_bytes(device);
                let workspace = device.zeros::<u8>(call.workspace_bytes).unwrap();
                call.workspace = at(device, &workspace);
                assert!(call.is_one(device));
                // SAFETY: the memory is as large as the fields say, and is there until the stream has been waited for below.
                unsafe { call.launch(device, device.raw_stream()).unwrap() };
                let got = bits(&device.download(&y).unwrap());
                assert_eq!(got, bits(&engine.expected[..m * N]), "{kind}, {scales:?}, M {m}");
                assert!(device.download(&workspace).unwrap().iter().all(|&byte| byte == 0));
            }
        }
    });
    let Some(all) = all else { return };
    assert_eq!(all.len(), 16);
    assert!(all.iter().all(|launch| launch.kernel().starts_with("w4a8_gemv_quantize")), "{all:?}");
}

#[test]
fn whole_product_on_an_engines_memory_matches_cpu() {
    let Some(device) = device() else { return };
    for (kind, scales) in (0..9).flat_map(|kind| [(kind, ActScales::Token), (kind, ActScales::Fine)]) {
        let engine = Engine::new(&device, kind, scales);
        let format = engine.packed.format();
        let (x, y) = (device.upload(&engine.x).unwrap(), device.zeros::<f32>(M * N).unwrap());
        let (x_at, y_at) = (at(&device, &x), at(&device, &y));
        let mut call = raw::Product::new(M, &engine.packed, engine.addresses(&device), x_at, y_at, ElementKind::F32);
        call.act_scales = scales;
        assert!(call.check(&device).is_err(), "{format:?}");
        call.workspace_bytes = call.workspace_bytes(&device);
        let workspace = device.zeros::<u8>(call.workspace_bytes).unwrap();
        call.workspace = at(&device, &workspace);
        // a call of one token leaves the scratch as it found it
        let one = raw::Product { m: 1, ..call };
        assert!(one.workspace_bytes(&device) <= call.workspace_bytes);
        for call in [call, one, call] {
            // SAFETY: the memory is as large as the fields say, and is there until the stream has been waited for below.
            unsafe { call.launch(&device, device.raw_stream()).unwrap() };
        }
        assert_eq!(bits(&device.download(&y).unwrap()), bits(&engine.expected), "{format:?}");
        // the counters and the sums that several blocks add to are zeros again; what follows are tokens
        let tokens = raw::Tokens { m: M, k: K, scales, memory: Address::NULL }.bytes();
        let left = device.download(&workspace).unwrap();
        assert!(left[..left.len() - tokens].iter().all(|&byte| byte == 0), "{format:?}");
    }
}

/// A product of K features of x as they are, of their RMSNorm, or of act(gate) ⊙ up.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Taken {
    Plain,
    Norm,
    Gated,
}

/// A product with everything that it may have beside it, on the CPU and by a raw call: bits of y, and the call's scratch.
fn product_of<X: DeviceElement, E: DeviceElement>(
    device: &Device,
    (kind, m, scales): (usize, usize, ActScales),
    from: Taken,
    gate: Option<Activation>,
) -> bool {
    const WIDE: usize = 96; // a multiple of 32, so that outputs may be gated
    const EPS: f32 = 1e-5;
    let (cpu, mut random) = (Cpu::detect(), Random::new(80 + kind as u64));
    let packed = PackedWeight::pack(&random_weight(&mut random, kind, WIDE, K));
    let upload = |bytes: &[u8]| (!bytes.is_empty()).then(|| device.upload(bytes).unwrap());
    let sections = packed.view().sections().map(upload);
    let in_k = if from == Taken::Gated { 2 * K } else { K };
    let x: Vec<X> = random.weights(m * in_k, 1.0).into_iter().map(X::from_f32).collect();
    let norm: Vec<f32> = (0..K).map(|_| random.unit() + 0.5).collect();
    let bias = random.weights(WIDE, 1.0);
    let wide = if gate.is_some() { WIDE / 2 } else { WIDE };
    let residual: Vec<E> = random.weights(m * WIDE, 1.0).into_iter().map(E::from_f32).collect();
    let residual = gate.is_none().then_some(residual);

    let widened: Vec<f32> = x.iter().map(|x| x.to_f32()).collect();
    let taken = match from {
        Taken::Plain => widened,
        Taken::Norm => {
            let mut normed = vec![0.0; m * K];
            rms_norm(&cpu, &widened, &norm, EPS, &mut normed).unwrap();
            normed
        }
        Taken::Gated => {
            let token = |x: &[f32]| {
                let mut hidden = x[K..].to_vec();
                activate_product(&cpu, Activation::Silu, &x[..K], &mut hidden).unwrap();
                hidden
            };
            widened.chunks(2 * K).flat_map(token).collect()
        }
    };
    let mut quantized = w4a8::Activations::default();
    quantized.set_scales(scales);
    quantized.quantize(&cpu, &taken, m, K).unwrap();
    let expected: Vec<E> = match gate {
        None => {
            let mut y = vec![E::default(); m * WIDE];
            let epilogue = w4a8::Epilogue { bias: Some(&bias), residual: residual.as_deref() };
            linear(&cpu, &packed, &quantized, epilogue, &mut y).unwrap();
            y
        }
        Some(activation) => {
            let mut y = vec![0.0f32; m * WIDE];
            linear(&cpu, &packed, &quantized, w4a8::Epilogue { bias: Some(&bias), residual: None }, &mut y).unwrap();
            let token = |y: &[f32]| {
                let mut hidden = y[wide..].to_vec();
                activate_product(&cpu, activation, &y[..wide], &mut hidden).unwrap();
                hidden.into_iter().map(E::from_f32).collect::<Vec<E>>()
            };
            y.chunks(WIDE).flat_map(token).collect()
        }
    };

    let (x_there, norm, bias) =
        (device.upload(&x).unwrap(), device.upload(&norm).unwrap(), device.upload(&bias).unwrap());
    let residual = residual.map(|residual| device.upload(&residual).unwrap());
    let y = device.upload(&vec![E::from_f32(7.0); m * wide]).unwrap();
    let addresses = sections.as_ref().map(|part| part.as_ref().map_or(Address::NULL, |part| at(device, part)));
    let mut call = raw::Product::new(m, &packed, addresses, at(device, &x_there), at(device, &y), E::KIND);
    call.source = match from {
        Taken::Plain => Source::Plain,
        Taken::Norm => Source::RmsNorm { weight: at(device, &norm), eps: EPS },
        Taken::Gated => Source::SwiGlu { activation: Activation::Silu },
    };
    (call.x_element, call.act_scales, call.gate) = (X::KIND, scales, gate);
    call.bias = Some(at(device, &bias));
    call.residual = residual.as_ref().map(|residual| at(device, residual));
    call.workspace_bytes = call.workspace_bytes(device);
    let workspace = device.zeros::<u8>(call.workspace_bytes.max(1)).unwrap();
    call.workspace = at(device, &workspace);
    // SAFETY: the memory is as large as the fields say, and is there until the stream has been waited for below.
    unsafe { call.launch(device, device.raw_stream()).unwrap() };
    let widen = |y: &[E]| bits(&y.iter().map(|v| v.to_f32()).collect::<Vec<f32>>());
    let got = device.download(&y).unwrap();
    assert!(widen(&got) == widen(&expected), "{:?}, {scales:?}, M {m}, {from:?}, {gate:?}", packed.format());
    call.is_one(device)
}

#[test]
fn product_of_every_source_and_element_matches_cpu() {
    let Some(device) = device() else { return };
    let mut one = [0; 2];
    for (i, m) in (1..=8).chain([1, 4, 17]).enumerate() {
        let kind = i % 9;
        for (j, from) in [Taken::Plain, Taken::Norm, Taken::Gated].into_iter().enumerate() {
            let scales = if (i + j) % 2 == 0 { ActScales::Token } else { ActScales::Fine };
            let is_one = match (i + j) % 3 {
                0 => product_of::<f32, f32>(&device, (kind, m, scales), from, None),
                1 => product_of::<f16, bf16>(&device, (kind, m, scales), from, None),
                _ => product_of::<bf16, f16>(&device, (kind, m, scales), from, None),
            };
            assert!(!is_one || (m <= 4 && from != Taken::Gated));
            one[usize::from(is_one)] += 1;
        }
    }
    assert!(one[0] > 0 && one[1] > 0, "{one:?}");
}

#[test]
fn gated_product_matches_cpu_in_one_launch() {
    let Some(device) = device() else { return };
    for (m, kind) in [(1, 0), (2, 3), (3, 5), (4, 8)] {
        for (from, scales) in [(Taken::Plain, ActScales::Fine), (Taken::Norm, ActScales::Token)] {
            assert!(product_of::<f16, f32>(&device, (kind, m, scales), from, Some(Activation::Silu)));
            assert!(product_of::<f32, bf16>(&device, (kind, m, scales), from, Some(Activation::Relu)));
        }
    }
}

#[test]
fn products_that_no_launch_takes_are_refused() {
    let Some(device) = device() else { return };
    let engine = Engine::new(&device, 0, ActScales::Token);
    let (x, y) = (device.upload(&engine.x).unwrap(), device.upload(&vec![7.0f32; M * N]).unwrap());
    let (x_at, y_at) = (at(&device, &x), at(&device, &y));
    let mut call = raw::Product::new(4, &engine.packed, engine.addresses(&device), x_at, y_at, ElementKind::F32);
    call.workspace_bytes = call.workspace_bytes(&device);
    let workspace = device.zeros::<u8>(call.workspace_bytes).unwrap();
    call.workspace = at(&device, &workspace);
    call.check(&device).unwrap();
    let gate = Some(Activation::Silu);
    let refused = |call: raw::Product| {
        // SAFETY: nothing is launched, which the check of y below tells.
        unsafe { call.launch(&device, device.raw_stream()).unwrap_err() }
    };
    // N is no multiple of 32; more tokens; gate and up of gated outputs; a residual
    assert!(matches!(refused(raw::Product { gate, ..call }), Error::Shape { what: "n", got: 80, .. }));
    assert!(matches!(refused(raw::Product { gate, m: 5, n: 64, ..call }), Error::Shape { what: "m", got: 5, .. }));
    let source = Source::SwiGlu { activation: Activation::Silu };
    assert!(matches!(refused(raw::Product { gate, source, n: 64, ..call }), Error::Unsupported { what: "source", .. }));
    let residual = Some(y_at);
    let call_with = raw::Product { gate, residual, n: 64, ..call };
    assert!(matches!(refused(call_with), Error::Unsupported { what: "residual", .. }));
    let source = Source::RmsNorm { weight: Address::NULL, eps: 1e-5 };
    assert!(matches!(refused(raw::Product { source, ..call }), Error::Misaligned { what: "norm_weight", .. }));
    assert!(matches!(refused(raw::Product { workspace_bytes: 8, ..call }), Error::Length { what: "workspace", .. }));
    assert!(device.download(&y).unwrap().iter().all(|&v| v == 7.0));
}
