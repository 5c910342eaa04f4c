//! Weights and activations in memory of an engine: taken by address, filled in through raw calls, and left to the engine.

use crate::common::{Random, bits};
use crate::device::{device, metered};
use crate::weights::random_weight;
use moray::Cpu;
use moray::device::cudarc::driver::{CudaSlice, DevicePtr};
use moray::device::{Address, Device, ElementKind, RawCall};
use moray::w4a8::cuda::raw::{self, Quantize, Source};
use moray::w4a8::cuda::{self, Architecture, Variant};
use moray::w4a8::{self, ActScales, LAYOUT_VERSION, PackedWeight, Sections, linear};

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
    }
}
