//! Quantization and multiplication in one launch: the CPU's bits, by every mode, element and kind of output.

use crate::common::{Random, bits};
use crate::device::{device, metered};
use crate::weights::random_weight;
use half::{bf16, f16};
use moray::device::DeviceElement;
use moray::llama::rms_norm;
use moray::sparse_mlp::{Activation, activate_product};
use moray::w4a8::cuda::{self, Architecture, FewTokens, Variant, gated_few, linear_few};
use moray::w4a8::{ActScales, Activations, Epilogue, Format, Offset, PackedWeight, linear, quantize};
use moray::{Cpu, Device, Error};

const EPS: f32 = 1e-5;

/// What is computed: of `m` tokens, perhaps normalised.
struct Case {
    packed: PackedWeight,
    m: usize,
    x: Vec<f32>,
    norm: Option<Vec<f32>>,
    bias: Vec<f32>,
    scales: ActScales,
}

impl Case {
    fn new(random: &mut Random, packed: PackedWeight, m: usize, normed: bool, scales: ActScales) -> Self {
        let (n, k) = (packed.n(), packed.k());
        let mut x = random.weights(m * k, 1.0);
        if m > 2 {
            x[k..2 * k].fill(0.0);
        }
        let norm = normed.then(|| (0..k).map(|_| random.unit() + 0.5).collect());
        Case { packed, m, x, norm, bias: random.weights(n, 1.0), scales }
    }

    fn n(&self) -> usize {
        self.packed.n()
    }

    /// The outputs by the CPU's own calls, of x as elements of type X.
    fn on_cpu<X: DeviceElement, E: DeviceElement>(&self, cpu: &Cpu, residual: Option<&[E]>) -> Vec<E> {
        let mut x: Vec<f32> = self.x.iter().map(|&v| X::from_f32(v).to_f32()).collect();
        if let Some(norm) = &self.norm {
            let plain = x.clone();
            rms_norm(cpu, &plain, norm, EPS, &mut x).unwrap();
        }
        let mut activations = Activations::default();
        activations.set_scales(self.scales);
        activations.quantize(cpu, &x, self.m, self.packed.k()).unwrap();
        let mut y = vec![E::default(); self.m * self.n()];
        linear(cpu, &self.packed, &activations, Epilogue { bias: Some(&self.bias), residual }, &mut y).unwrap();
        y
    }

    fn gated_on_cpu<X: DeviceElement, E: DeviceElement>(&self, cpu: &Cpu, activation: Activation) -> Vec<E> {
        let half = self.n() / 2;
        let y = self.on_cpu::<X, f32>(cpu, None);
        let token = |y: &[f32]| {
            let mut hidden = y[half..].to_vec();
            activate_product(cpu, activation, &y[..half], &mut hidden).unwrap();
            hidden.into_iter().map(E::from_f32).collect::<Vec<E>>()
        };
        y.chunks(self.n()).flat_map(token).collect()
    }

    fn on_device<X: DeviceElement, E: DeviceElement>(
        &self,
        device: &Device,
        residual: Option<&[E]>,
        gate: Option<Activation>,
    ) -> Vec<E> {
        let weight = cuda::Weight::upload(device, &self.packed).unwrap();
        let x = device.upload(&self.x.iter().map(|&v| X::from_f32(v)).collect::<Vec<X>>()).unwrap();
        let norm = self.norm.as_ref().map(|norm| device.upload(norm).unwrap());
        let bias = device.upload(&self.bias).unwrap();
        let wide = if gate.is_some() { self.n() / 2 } else { self.n() };
        let mut y = device.upload(&vec![E::from_f32(f32::NAN); self.m * wide]).unwrap();
        let x = x.as_view();
        let tokens = FewTokens { x: &x, m: self.m, norm: norm.as_ref().map(|norm| (norm, EPS)), scales: self.scales };
        let mut out = y.as_view_mut();
        match gate {
            Some(activation) => gated_few(device, &weight, tokens, Some(&bias), activation, &mut out).unwrap(),
            None => {
                let residual = residual.map(|residual| device.upload(residual).unwrap());
                let view = residual.as_ref().map(|residual| residual.as_view());
                let epilogue = cuda::Epilogue { bias: Some(&bias), residual: view.as_ref() };
                linear_few(device, &weight, tokens, epilogue, &mut out).unwrap();
            }
        }
        device.download(&y).unwrap()
    }

    fn compare<X: DeviceElement, E: DeviceElement>(&self, device: &Device, random: &mut Random) {
        let cpu = Cpu::detect();
        let widen = |y: Vec<E>| bits(&y.iter().map(|v| v.to_f32()).collect::<Vec<f32>>());
        let residual: Vec<E> = random.weights(self.m * self.n(), 1.0).into_iter().map(E::from_f32).collect();
        let what = (self.m, self.n(), self.packed.k(), self.norm.is_some(), self.scales);
        let expected = self.on_cpu::<X, E>(&cpu, Some(&residual));
        let got = self.on_device::<X, E>(device, Some(&residual), None);
        assert!(widen(got) == widen(expected), "{what:?}, {:?}", self.packed);
        for activation in [Activation::Silu, Activation::Relu].into_iter().filter(|_| self.n() % 32 == 0) {
            let expected = self.gated_on_cpu::<X, E>(&cpu, activation);
            let got = self.on_device::<X, E>(device, None, Some(activation));
            assert!(widen(got) == widen(expected), "{activation:?} of {what:?}, {:?}", self.packed);
        }
    }
}

/// Of `random_weight`; the last has groups of 128 alone.
fn matches_cpu(kind: usize) {
    let Some(device) = device() else { return };
    let mut random = Random::new(60 + kind as u64);
    // one row, rows of one team and of several, gated; K of less than a step of two, of two chunks, of more than a thread holds at once
    let shapes: [(usize, usize, usize); 6] =
        [(1, 1, 128), (4, 32, 64), (2, 96, 576), (1, 17, 96), (3, 64, 2336), (1, 32, 6272)];
    for (i, (m, n, k)) in shapes.into_iter().enumerate() {
        let k = if kind == 8 { 128 * k.div_ceil(128) } else { k };
        for (normed, scales) in [(i % 2 == 0, ActScales::Token), (i % 2 == 1, ActScales::Fine)] {
            let packed = PackedWeight::pack(&random_weight(&mut random, kind, n, k));
            let case = Case::new(&mut random, packed, m, normed, scales);
            match i % 3 {
                0 => case.compare::<f32, f32>(&device, &mut random),
                1 => case.compare::<f16, bf16>(&device, &mut random),
                _ => case.compare::<bf16, f16>(&device, &mut random),
            }
        }
    }
}

macro_rules! matches_cpu {
    ($($name:ident: $kind:expr;)*) => {
        $(#[test]
        fn $name() {
            matches_cpu($kind);
        })*
    };
}

matches_cpu! {
    few_tokens_match_cpu_bit_for_bit_0: 0;
    few_tokens_match_cpu_bit_for_bit_1: 1;
    few_tokens_match_cpu_bit_for_bit_2: 2;
    few_tokens_match_cpu_bit_for_bit_3: 3;
    few_tokens_match_cpu_bit_for_bit_4: 4;
    few_tokens_match_cpu_bit_for_bit_5: 5;
    few_tokens_match_cpu_bit_for_bit_6: 6;
    few_tokens_match_cpu_bit_for_bit_7: 7;
    few_tokens_match_cpu_bit_for_bit_8: 8;
}

/// More rows of tiles than the teams of 132 multiprocessors take in one turn, gated ones too.
#[test]
fn teams_that_take_several_rows_match_cpu_bit_for_bit() {
    let Some(device) = device() else { return };
    let mut random = Random::new(65);
    for (kind, m, scales) in [(0, 2, ActScales::Token), (1, 1, ActScales::Fine), (6, 4, ActScales::Token)] {
        let packed = PackedWeight::pack(&random_weight(&mut random, kind, 32 * (3 * 132 + 5), 96));
        let case = Case::new(&mut random, packed, m, kind == 1, scales);
        case.compare::<f32, f32>(&device, &mut random);
    }
}

/// Few rows of the widest tokens, so that values past those that a thread keeps are normalised too.
#[test]
fn widest_token_matches_cpu_bit_for_bit() {
    let Some(device) = device() else { return };
    let mut random = Random::new(61);
    for (normed, k) in [(true, 16_384), (false, 11_008), (true, 12_320)] {
        let packed = PackedWeight::pack(&quantize(&random.weights(32 * k, 1.0), 32, k, Format::per_channel()).unwrap());
        let case = Case::new(&mut random, packed, 1, normed, ActScales::Token);
        case.compare::<f32, f32>(&device, &mut random);
    }
}

#[test]
fn token_that_is_not_finite_gives_nan_and_the_others_their_numbers() {
    let Some(device) = device() else { return };
    let mut random = Random::new(62);
    let packed = PackedWeight::pack(&quantize(&random.weights(32 * 96, 1.0), 32, 96, Format::per_channel()).unwrap());
    let mut case = Case::new(&mut random, packed, 3, true, ActScales::Token);
    case.x[96 + 7] = f32::INFINITY;
    let y = case.on_device::<f32, f32>(&device, None, None);
    assert!(y[32..64].iter().all(|v| v.is_nan()) && y[..32].iter().chain(&y[64..]).all(|v| v.is_finite()));
}

#[test]
fn sizes_that_do_not_fit_are_refused_before_anything_is_written() {
    let Some(device) = device() else { return };
    let call = |m: usize, n: usize, k: usize, gate: Option<Activation>, short: usize| {
        let packed = PackedWeight::pack(&quantize(&vec![0.5; n * k], n, k, Format::per_channel()).unwrap());
        let weight = cuda::Weight::upload(&device, &packed).unwrap();
        let x = device.zeros::<f32>(m * k - short).unwrap();
        let wide = if gate.is_some() { n / 2 } else { n };
        let mut y = device.upload(&vec![7.0f32; m * wide]).unwrap();
        let x = x.as_view();
        let tokens = FewTokens { x: &x, m, norm: None, scales: ActScales::Token };
        let mut out = y.as_view_mut();
        let result = match gate {
            Some(activation) => gated_few(&device, &weight, tokens, None, activation, &mut out),
            None => linear_few(&device, &weight, tokens, cuda::Epilogue::default(), &mut out),
        };
        assert!(device.download(&y).unwrap().iter().all(|&v| v == 7.0));
        result
    };
    let silu = Some(Activation::Silu);
    assert!(matches!(call(5, 16, 64, None, 0), Err(Error::Shape { what: "m", got: 5, .. })));
    assert!(matches!(call(2, 16, 8256, None, 0), Err(Error::Shape { what: "m", got: 2, .. })));
    assert!(matches!(call(1, 48, 64, silu, 0), Err(Error::Shape { what: "n", got: 48, .. })));
    assert!(matches!(call(1, 32, 64, None, 1), Err(Error::Length { what: "x", expected: 64, got: 63 })));
}

#[test]
fn few_tokens_take_one_launch_where_a_gemv_is_chosen() {
    let h200 = Architecture { capability: (9, 0), multiprocessors: 132 };
    let is_for = |format, m, n, k| cuda::raw::Gemv::is_for(h200, format, ActScales::Token, m, n, k);
    let per_channel = Format::per_channel();
    assert!(is_for(per_channel, 1, 12_288, 4096) && is_for(per_channel, 4, 12_288, 4096));
    assert!(is_for(per_channel, 1, 4096, 11_008) && !is_for(per_channel, 2, 4096, 11_008));
    assert!(!is_for(per_channel, 5, 4096, 1024) && !is_for(per_channel, 1, 8192, 21_760));
    assert!(is_for(Format::two_level(128), 4, 4096, 4096));
    for (m, n, k) in [(1, 8192, 4096), (1, 576, 576)] {
        let format = Format::per_group(128, Offset::None);
        let gemv = Variant::choose(h200, format, ActScales::Token, m, n, k) == Variant::Gemv;
        assert_eq!(is_for(format, m, n, k), gemv, "{n} × {k}");
    }
}

#[test]
fn one_launch_reads_weights_once_and_has_no_bank_conflicts() {
    let name = "few::one_launch_reads_weights_once_and_has_no_bank_conflicts";
    let (n, k) = (4096, 1024);
    let cases = [(0, 1), (0, 2), (1, 1), (4, 1)];
    let packed = |kind: usize| PackedWeight::pack(&random_weight(&mut Random::new(63), kind, n, k));
    let run = |device: &Device| {
        for (kind, m) in cases {
            let case = Case::new(&mut Random::new(64), packed(kind), m, true, ActScales::Token);
            case.on_device::<f32, f32>(device, None, None);
        }
    };
    let Some(launches) = metered(name, run) else { return };
    assert_eq!(launches.len(), cases.len());
    for (launch, (kind, m)) in launches.iter().zip(cases) {
        let conflicts = launch.count("shared_bank_conflicts");
        assert_eq!(conflicts, 0, "{}: {conflicts} conflicts", launch.kernel());
        // each block reads all tokens and their norm, each output a channel scale and a bias
        let (got, weights) = (launch.count("global_load_sectors") as usize * 32, packed(kind).bytes());
        let most = weights + 108 * m * 8 * k + 2 * 4 * m * n;
        assert!(got >= weights && got <= most, "{}, M {m}: {got} bytes, weights {weights}", launch.kernel());
    }
}
