//! Quantization and multiplication in one launch: the CPU's bits, by every mode, element and kind of output.

use crate::common::{Random, bits};
use crate::device::{device, metered, with_late_warps};
use crate::weights::random_weight;
use half::{bf16, f16};
use moray::device::DeviceElement;
use moray::device::cudarc::driver::{CudaSlice, DevicePtr};
use moray::device::{Address, ElementKind, RawCall};
use moray::llama::rms_norm;
use moray::sparse_mlp::{Activation, activate_product};
use moray::w4a8::cuda::raw::{Gemv, GemvPair, Source};
use moray::w4a8::cuda::{self, Architecture, FewTokens, Variant, gated_few, is_pair, linear_few, mlp_few};
use moray::w4a8::{ActScales, Activations, Epilogue, Format, LAYOUT_VERSION, Offset, PackedWeight, linear, quantize};
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

/// A whole MLP: gates and ups of `d` inputs, and what is multiplied with the `d_ff` numbers that come of them.
struct Mlp {
    gate_up: Case,
    down: Case,
    residual: Vec<f32>,
}

impl Mlp {
    fn new(
        random: &mut Random,
        kind: usize,
        (m, d, d_ff): (usize, usize, usize),
        normed: bool,
        scales: [ActScales; 2],
    ) -> Self {
        let mut packed = |n, k| PackedWeight::pack(&random_weight(random, kind, n, k));
        let (gate_up, down) = (packed(2 * d_ff, d), packed(d, d_ff));
        let gate_up = Case::new(random, gate_up, m, normed, scales[0]);
        Mlp { gate_up, down: Case::new(random, down, m, false, scales[1]), residual: random.weights(m * d, 1.0) }
    }

    /// The outputs by the CPU's own calls.
    fn on_cpu(&self, activation: Activation) -> Vec<f32> {
        let cpu = Cpu::detect();
        let Case { packed, m, bias, scales, .. } = &self.down;
        let x = self.gate_up.gated_on_cpu::<f32, f32>(&cpu, activation);
        let down = Case { packed: packed.clone(), m: *m, x, norm: None, bias: bias.clone(), scales: *scales };
        down.on_cpu::<f32, f32>(&cpu, Some(&self.residual))
    }

    /// The outputs of so many calls that work in the same memory, whose hidden values are NaN before each.
    fn on_device(&self, device: &Device, activation: Activation, calls: usize) -> Vec<Vec<f32>> {
        let upload = |of: &[f32]| device.upload(of).unwrap();
        let [gate_up, down] = [&self.gate_up, &self.down].map(|of| cuda::Weight::upload(device, &of.packed).unwrap());
        assert!(is_pair(device, &gate_up, &down), "{:?}", self.gate_up.packed);
        let (x, norm, residual) =
            (upload(&self.gate_up.x), self.gate_up.norm.as_deref().map(upload), upload(&self.residual));
        let biases = [&self.gate_up, &self.down].map(|of| upload(&of.bias));
        let (m, x, residual) = (self.gate_up.m, x.as_view(), residual.as_view());
        let norm = norm.as_ref().map(|norm| (norm, EPS));
        let tokens = FewTokens { x: &x, m, norm, scales: self.gate_up.scales };
        let mut workspace = cuda::Workspace::new(device).unwrap();
        let run = |_| {
            let (mut hidden, mut y) = (upload(&vec![f32::NAN; m * down.k()]), upload(&vec![f32::NAN; m * down.n()]));
            let epilogue = cuda::Epilogue { bias: Some(&biases[1]), residual: Some(&residual) };
            let (first, second) = ((&gate_up, tokens, Some(&biases[0])), (&down, self.down.scales, epilogue));
            let (h, out) = (&mut hidden.as_view_mut(), &mut y.as_view_mut());
            mlp_few(device, first, activation, h, second, out, &mut workspace).unwrap();
            assert!(device.download(&workspace.counters()).unwrap().iter().all(|&count| count == 0));
            device.download(&y).unwrap()
        };
        (0..calls).map(run).collect()
    }
}

/// Both products in one launch; rows of one block and of more than there are multiprocessors, gates and ups of one row of tiles and of many,
/// more inputs of the second than a thread keeps.
#[test]
fn whole_mlp_matches_cpu_bit_for_bit() {
    let Some(device) = device() else { return };
    let mut random = Random::new(66);
    use ActScales::{Fine, Token};
    let shapes = [(1, 32, 64), (4, 96, 128), (2, 64, 1024), (1, 1152, 320), (1, 64, 4224)];
    for (i, kind) in [0, 1, 2, 4, 6, 7, 8].into_iter().enumerate() {
        for (j, (m, d, d_ff)) in shapes.into_iter().enumerate() {
            let round = |k: usize| if kind == 8 { k.next_multiple_of(128) } else { k };
            let (d, d_ff) = (round(d), round(d_ff));
            let scales = [[Token, Token], [Fine, Token], [Token, Fine], [Fine, Fine]][(i + j) % 4];
            let mlp = Mlp::new(&mut random, kind, (m, d, d_ff), (i + j) % 3 != 0, scales);
            let activation = if j % 2 == 0 { Activation::Silu } else { Activation::Relu };
            let expected = bits(&mlp.on_cpu(activation));
            for got in mlp.on_device(&device, activation, 2) {
                assert!(bits(&got) == expected, "kind {kind}, M {m}, d {d}, d_ff {d_ff}, {scales:?}");
            }
        }
    }
}

/// Blocks wait until all warps of all have left their gated outputs.
#[test]
fn whole_mlp_matches_cpu_where_warps_are_late() {
    const NAME: &str = "few::whole_mlp_matches_cpu_where_warps_are_late";
    with_late_warps(NAME, whole_mlp_matches_cpu_bit_for_bit);
}

/// Addresses of a whole MLP of one token per channel, and what holds them.
fn raw_mlp(device: &Device, [gate_up, down]: [&cuda::Weight; 2], [x, hidden, y]: [u64; 3], arrived: u64) -> GemvPair {
    let gemv = |weight: &cuda::Weight, x: u64, y: u64, gate: Option<Activation>| Gemv {
        format: weight.format(),
        m: 1,
        n: weight.n(),
        k: weight.k(),
        layout: LAYOUT_VERSION,
        weight: weight.addresses(),
        source: Source::Plain,
        x: Address::new(x),
        x_element: ElementKind::F32,
        act_scales: ActScales::Token,
        bias: None,
        residual: None,
        gate,
        y: Address::new(y),
        element: ElementKind::F32,
    };
    assert!(device.multiprocessors() > 1);
    let first = gemv(gate_up, x, hidden, Some(Activation::Silu));
    GemvPair { first, second: gemv(down, hidden, y, None), arrived: Address::new(arrived) }
}

/// The counters are zeros after every launch; a launch that finds others, as no launch leaves them, would not wait.
#[test]
fn raw_mlp_leaves_its_counters_zeros_and_refuses_what_does_not_belong_together() {
    let Some(device) = device() else { return };
    let (d, d_ff) = (64, 512);
    let mut random = Random::new(67);
    let mut pack =
        |n: usize, k: usize, format| PackedWeight::pack(&quantize(&random.weights(n * k, 1.0), n, k, format).unwrap());
    let packed = [pack(2 * d_ff, d, Format::per_channel()), pack(d, d_ff, Format::per_channel())];
    let other = cuda::Weight::upload(&device, &pack(d, d_ff, Format::w8())).unwrap();
    let weights = packed.each_ref().map(|packed| cuda::Weight::upload(&device, packed).unwrap());
    let x = device.upload(&random.weights(d, 1.0)).unwrap();
    let (hidden, y) = (device.zeros::<f32>(d_ff).unwrap(), device.zeros::<f32>(d).unwrap());
    let arrived = device.zeros::<u32>(2).unwrap();
    let at = |slice: &CudaSlice<f32>| slice.device_ptr(device.stream()).0;
    let counters = arrived.device_ptr(device.stream()).0;
    let good = raw_mlp(&device, weights.each_ref(), [at(&x), at(&hidden), at(&y)], counters);
    for _ in 0..3 {
        // SAFETY: the memory is as large as the fields say, and is there until it is read below.
        unsafe { good.launch(&device, device.raw_stream()).unwrap() };
        assert_eq!(device.download(&arrived).unwrap(), [0, 0]);
    }
    assert!(device.download(&y).unwrap().iter().any(|&v| v != 0.0));
    let refused = |spoil: &dyn Fn(&mut GemvPair)| {
        let mut call = good;
        spoil(&mut call);
        let error = call.check(&device).unwrap_err();
        // SAFETY: nothing is launched.
        assert_eq!(unsafe { call.launch(&device, device.raw_stream()) }, Err(error.clone()));
        match error {
            Error::Shape { what, .. } | Error::Unsupported { what, .. } | Error::Misaligned { what, .. } => what,
            error => panic!("{error}"),
        }
    };
    assert_eq!(refused(&|call| call.first.gate = None), "gate");
    assert_eq!(refused(&|call| call.second.gate = Some(Activation::Silu)), "gate");
    assert_eq!(refused(&|call| call.second.x = call.first.x), "x");
    assert_eq!(refused(&|call| call.first.x_element = ElementKind::F16), "x");
    assert_eq!(refused(&|call| call.first.element = ElementKind::Bf16), "x");
    assert_eq!(refused(&|call| call.second.m = 2), "m");
    assert_eq!(refused(&|call| call.second.k = 256), "k");
    assert_eq!(refused(&|call| call.second.source = Source::RmsNorm { weight: Address::new(16), eps: EPS }), "source");
    assert_eq!(
        refused(&|call| (call.second.format, call.second.weight) = (other.format(), other.addresses())),
        "format"
    );
    assert_eq!(refused(&|call| call.arrived = Address::NULL), "arrived");
}
