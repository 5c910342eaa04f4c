//! The calls by addresses that only the forward pass needs, against the CPU and with bad input.

use crate::common::{Random, bits, cpus};
use crate::device::{device, metered};
use half::f16;
use moray::device::cudarc::driver::{CudaSlice, DevicePtr};
use moray::device::{Address, ElementKind, RawCall};
use moray::llama::cuda::NO_TOKEN;
use moray::llama::cuda::raw::{Activate, Argmax, Dense, Embed, MoveRows, RmsNorm, Sample, SamplerRecord};
use moray::llama::{DenseType, DenseWeight, rms_norm};
use moray::sparse_mlp::{Activation, activate_product};
use moray::w4a8::Epilogue;
use moray::{Device, Error};

/// An engine's memory: what it has allocated, by addresses.
struct Engine<'a> {
    device: &'a Device,
    slices: Vec<CudaSlice<u8>>,
}

impl Engine<'_> {
    fn hold<T: bytemuck::Pod>(&mut self, host: &[T]) -> Address<T> {
        self.slices.push(self.device.upload(bytemuck::cast_slice::<T, u8>(host)).unwrap());
        Address::new(self.slices[self.slices.len() - 1].device_ptr(self.device.stream()).0)
    }

    fn read<T: bytemuck::Pod>(&self, at: Address<T>) -> Vec<T> {
        let is_there = |slice: &&CudaSlice<u8>| slice.device_ptr(self.device.stream()).0 == at.get();
        let bytes = self.device.download(self.slices.iter().find(is_there).unwrap()).unwrap();
        bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()
    }

    fn run(&self, call: &impl RawCall) {
        // SAFETY: the engine holds every buffer of the call.
        unsafe { call.launch(self.device, self.device.raw_stream()).unwrap() };
    }
}

fn norm(engine: &mut Engine<'_>, x: &[f32], rows: &[u32], weight: &[f32], eps: f32) -> RmsNorm {
    let k = weight.len();
    RmsNorm {
        x: engine.hold(x),
        x_rows: x.len() / k,
        x_stride: k,
        rows: Some(engine.hold(rows)),
        weight: engine.hold(weight),
        eps,
        m: rows.len(),
        heads: 1,
        k,
        y: engine.hold(&vec![f32::NAN; rows.len() * k]),
        y_stride: k,
    }
}

#[test]
fn raw_norm_and_activation_match_the_cpu_bit_for_bit() {
    let Some(device) = device() else { return };
    let mut engine = Engine { device: &device, slices: Vec::new() };
    let mut random = Random::new(81);
    let (k, cpus) = (36, cpus());
    let cpu = &cpus[0];
    let (x, weight) = (random.weights(5 * k, 2.0), random.weights(k, 1.0));
    let call = norm(&mut engine, &x, &[4, 0, 2], &weight, 1e-5);
    engine.run(&call);
    let mut expected = vec![0.0; x.len()];
    rms_norm(cpu, &x, &weight, 1e-5, &mut expected).unwrap();
    let expected: Vec<f32> = [4, 0, 2].iter().flat_map(|row| expected[row * k..(row + 1) * k].to_vec()).collect();
    assert_eq!(bits(&engine.read(call.y)), bits(&expected));

    let gate_up = random.weights(3 * 2 * k, 1.0);
    let (gate, hidden) = (engine.hold(&gate_up), engine.hold(&vec![f32::NAN; 3 * k]));
    engine.run(&Activate { gate_up: gate, activation: Activation::Silu, hidden, m: 3, features: k });
    let mut expected = Vec::new();
    for row in gate_up.chunks_exact(2 * k) {
        let mut up = row[k..].to_vec();
        activate_product(cpu, Activation::Silu, &row[..k], &mut up).unwrap();
        expected.extend(up);
    }
    assert_eq!(bits(&engine.read(hidden)), bits(&expected));
}

/// A matrix in blocks of 16 rows, by its definition.
#[test]
fn raw_dense_and_embedding_match_their_definition() {
    let Some(device) = device() else { return };
    let mut engine = Engine { device: &device, slices: Vec::new() };
    let (m, n, k) = (2, 19, 8);
    // small whole numbers: every order of sums is exact
    let w: Vec<f32> = (0..n * k).map(|i| (i * 7 % 9) as f32 - 4.0).collect();
    let x: Vec<f32> = (0..m * k).map(|i| (i * 5 % 7) as f32 - 3.0).collect();
    let mut blocks = vec![f16::ZERO; Dense::weight_elems(n, k)];
    for (i, &w) in w.iter().enumerate() {
        let (row, column) = (i / k, i % k);
        blocks[(row / 16 * k + column) * 16 + row % 16] = f16::from_f32(w);
    }
    let table = engine.hold(&blocks).cast();
    let y = engine.hold(&vec![f32::NAN; m * n]);
    let bias: Vec<f32> = (0..n).map(|i| i as f32).collect();
    let call = Dense {
        w: table,
        element: ElementKind::F16,
        x: engine.hold(&x),
        bias: Some(engine.hold(&bias)),
        residual: None,
        y,
        m,
        n,
        k,
    };
    engine.run(&call);
    let dot = |m: usize, n: usize| (0..k).map(|i| x[m * k + i] * w[n * k + i]).sum::<f32>() + bias[n];
    let expected: Vec<f32> = (0..m * n).map(|at| dot(at / n, at % n)).collect();
    assert_eq!(engine.read(y), expected);

    let rows = engine.hold(&vec![f32::NAN; 3 * k]);
    let tokens = engine.hold(&[18u32, 0, 16]);
    engine.run(&Embed { tokens, table, element: ElementKind::F16, x: rows, m: 3, n, k });
    let expected: Vec<f32> = [18, 0, 16].iter().flat_map(|row| w[row * k..(row + 1) * k].to_vec()).collect();
    assert_eq!(engine.read(rows), expected);

    let narrow = engine.hold(&[f16::NAN; 32]);
    let (from, to) = (engine.hold(&[2u32, 0]), engine.hold(&[0u32, 3]));
    engine.run(&MoveRows {
        x: rows.cast(),
        x_type: ElementKind::F32,
        x_rows: 3,
        y: narrow.cast(),
        y_type: ElementKind::F16,
        y_rows: 4,
        from,
        to,
        rows: 2,
        k,
    });
    let moved: Vec<f32> = engine.read(narrow).into_iter().map(f16::to_f32).collect();
    assert_eq!(moved[..k], w[16 * k..17 * k]);
    assert_eq!(moved[3 * k..], w[18 * k..19 * k]);
    assert!(moved[k..3 * k].iter().all(|x| x.is_nan()));
}

/// K below a stage of the ring, at it, past it, and past the ring; rows and tokens at the edges of their tiles.
#[test]
fn raw_dense_products_match_the_cpu_bit_for_bit() {
    let Some(device) = device() else { return };
    let (mut random, cpus) = (Random::new(82), cpus());
    let types =
        [(DenseType::F32, ElementKind::F32), (DenseType::F16, ElementKind::F16), (DenseType::Bf16, ElementKind::Bf16)];
    let shapes = [(1, 1), (16, 63), (17, 64), (33, 65), (15, 2), (48, 640), (16, 1283), (5, 31), (40, 32), (8, 383)];
    for ((dtype, element), (n, k)) in types.into_iter().flat_map(|kind| shapes.map(|shape| (kind, shape))) {
        let weight = DenseWeight::from_f32(&random.weights(n * k, 0.5), n, k, dtype).unwrap();
        for m in [1, 2, 8, 9] {
            let mut engine = Engine { device: &device, slices: Vec::new() };
            let (x, bias, residual) = (random.weights(m * k, 1.0), random.weights(n, 1.0), random.weights(m * n, 1.0));
            let mut expected = vec![0.0; m * n];
            let epilogue = Epilogue { bias: Some(&bias), residual: Some(&residual) };
            weight.linear(&cpus[0], &x, epilogue, &mut expected).unwrap();
            let call = Dense {
                w: engine.hold(weight.data()).cast(),
                element,
                x: engine.hold(&x),
                bias: Some(engine.hold(&bias)),
                residual: Some(engine.hold(&residual)),
                y: engine.hold(&vec![f32::NAN; m * n]),
                m,
                n,
                k,
            };
            engine.run(&call);
            assert_eq!(bits(&engine.read(call.y)), bits(&expected), "{dtype:?}, m {m}, n {n}, k {k}");
        }
    }
}

/// One token reads each weight once.
#[test]
fn dense_weights_are_read_once() {
    let (n, k) = (48, 1000);
    let Some(all) = metered("raw::dense_weights_are_read_once", |device| {
        let mut engine = Engine { device, slices: Vec::new() };
        let call = Dense {
            w: engine.hold(&vec![f16::ONE; n * k]).cast(),
            element: ElementKind::F16,
            x: engine.hold(&vec![1f32; k]),
            bias: None,
            residual: None,
            y: engine.hold(&vec![0f32; n]),
            m: 1,
            n,
            k,
        };
        engine.run(&call);
    }) else {
        return;
    };
    let [launch] = &all[..] else { panic!("expected one launch, got {all:?}") };
    // x once for each block of 16 rows
    let (weights, inputs) = (2 * n * k, n / 16 * 4 * k);
    assert_eq!(launch.count("global_load_bytes"), (weights + inputs) as u64);
    assert_eq!(launch.count("shared_bank_conflicts"), 0);
}

#[test]
fn raw_choices_of_tokens_match_greedy_ones() {
    let Some(device) = device() else { return };
    let mut engine = Engine { device: &device, slices: Vec::new() };
    let logits = [0.5, 2.0, 2.0, -1.0, f32::NAN, 0.0, 1.0, 2.0];
    let (logits, token) = (engine.hold(&logits), engine.hold(&[7u32; 2]));
    let rooms = engine.hold(&vec![0u64; Argmax::room_words(2)]);
    engine.run(&Argmax { logits, token, rooms, rows: 2, vocab: 4 });
    assert_eq!(engine.read(token), [1, NO_TOKEN]);
    let greedy = SamplerRecord { state: 3, top_p: 0, temperature: 0.0, min_p: 0.0 };
    let samplers = engine.hold(&[greedy; 2]);
    let (token, probability) = (engine.hold(&[7u32; 2]), engine.hold(&[0f32; 8]));
    engine.run(&Sample { logits, probability, samplers, token, rooms, rows: 2, vocab: 4 });
    assert_eq!(engine.read(token), [1, NO_TOKEN]);
}

#[test]
fn raw_calls_refuse_bad_addresses_and_sizes() {
    let Some(device) = device() else { return };
    let mut engine = Engine { device: &device, slices: Vec::new() };
    let good = norm(&mut engine, &[1.0; 24], &[0, 1], &[1.0; 12], 1e-5);
    good.check(&device).unwrap();
    let spoiled: [(&str, fn(&mut RmsNorm)); 10] = [
        ("x", |call| call.x = Address::NULL),
        ("weight", |call| call.weight = call.weight.offset(1)),
        ("rows", |call| call.rows = Some(Address::NULL)),
        ("rows", |call| call.m = 0),
        ("weight", |call| call.k = 10),
        ("heads", |call| (call.heads, call.x_stride) = (0, 16)),
        ("x_stride", |call| call.x_stride = 14),
        ("y_stride", |call| call.y_stride = 8),
        ("x_rows", |call| (call.rows, call.x_rows) = (None, 1)),
        ("y", |call| call.y = Address::new(8)),
    ];
    for (name, spoil) in spoiled {
        let mut call = good;
        spoil(&mut call);
        let error = call.check(&device).unwrap_err();
        let what = match &error {
            Error::Shape { what, .. } | Error::Misaligned { what, .. } => *what,
            other => panic!("{name}: {other}"),
        };
        assert_eq!(what, name, "{error}");
        // SAFETY: nothing is launched.
        assert_eq!(unsafe { call.launch(&device, device.raw_stream()) }, Err(error));
    }
    let (logits, token) = (engine.hold(&[0f32; 4]), engine.hold(&[0u32; 1]));
    let rooms = engine.hold(&vec![0u64; Argmax::room_words(1)]);
    for (rows, vocab) in [(0, 4), (1, 0), (1 << 16, 4)] {
        assert!(matches!(Argmax { logits, token, rooms, rows, vocab }.check(&device), Err(Error::Shape { .. })));
    }
}

#[test]
fn refused_raw_calls_launch_nothing() {
    let Some(all) = metered("raw::refused_raw_calls_launch_nothing", |_| raw_calls_refuse_bad_addresses_and_sizes())
    else {
        return;
    };
    assert!(all.is_empty(), "{all:?}");
}
