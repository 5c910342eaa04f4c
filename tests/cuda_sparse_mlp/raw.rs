//! The calls by addresses, over memory that stands in for an engine's, against the safe call and with bad input.

use half::{bf16, f16};
use moray::device::cudarc::driver::{CudaSlice, DevicePtr};
use moray::device::{Address, DeviceElement, ElementKind, RawCall};
use moray::sparse_mlp::cuda::raw::{
    Activations, Arrivals, Down, DownMatrix, GateUp, List, Matrix, Maxima, Mlp, Neurons, Output, Plan, Score,
    Selection, Union, Weights,
};
use moray::sparse_mlp::cuda::{self, NeuronList, PackedRows, PackedWeights, RowFormat, mask_words};
use moray::sparse_mlp::{IndexList, ScoreOn, TokenMasks};
use moray::w4a8::Group;
use moray::{Device, Error};

use crate::common::{Random, bits};
use crate::device::{device, metered, with_late_warps};
use crate::run::{Model, shape, subset};

/// An engine's memory: what it has allocated, by addresses.
struct Engine<'a> {
    device: &'a Device,
    slices: Vec<CudaSlice<u8>>,
}

impl Engine<'_> {
    fn hold<T: bytemuck::Pod>(&mut self, host: &[T]) -> Address<T> {
        let bytes: &[u8] = bytemuck::cast_slice(host);
        self.slices.push(if bytes.is_empty() { self.device.zeros(1) } else { self.device.upload(bytes) }.unwrap());
        Address::new(self.slices[self.slices.len() - 1].device_ptr(self.device.stream()).0)
    }

    fn read<T: bytemuck::Pod>(&self, at: Address<T>, elems: usize) -> Vec<T> {
        let is_there = |slice: &&CudaSlice<u8>| slice.device_ptr(self.device.stream()).0 == at.get();
        let bytes = self.device.download(self.slices.iter().find(is_there).unwrap()).unwrap();
        bytes[..elems * size_of::<T>()].chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()
    }

    fn weights(&mut self, model: &Model) -> Weights {
        let packed = PackedWeights::new(&model.host).unwrap();
        let mut parts = |rows: &PackedRows<'_>| {
            let scales = (!rows.scales.is_empty()).then(|| self.hold(&rows.scales));
            let bias = (!rows.bias.is_empty()).then(|| self.hold(rows.bias));
            (self.hold(&rows.rows), scales, bias)
        };
        let mut matrix = |held: &PackedRows<'_>| {
            let (rows, scales, bias) = parts(held);
            let scales = scales.map(|scales| scales.cast());
            Matrix { rows, scales, group: held.group, bias }
        };
        let (gate, up) = (matrix(&packed.gate), matrix(&packed.up));
        let (rows, scales, bias) = parts(&packed.down);
        Weights { gate, up, down: DownMatrix { rows, scales, group: packed.down.group, bias } }
    }

    fn list(&mut self, kept: &[u32], limit: usize) -> List {
        let mut list = kept.to_vec();
        list.resize(limit, 0);
        List { list: self.hold(&list), count: self.hold(&[kept.len() as u32]) }
    }

    /// A call with memory of its own for everything but the selection.
    fn call<X: DeviceElement + bytemuck::Pod>(&mut self, model: &Model, x: &[X], selection: Selection) -> Mlp {
        let (shape, multiprocessors) = (model.host.shape(), self.device.multiprocessors() as usize);
        let tokens = x.len() / shape.d_model;
        let format = PackedWeights::new(&model.host).unwrap().format;
        self.planned(model, x, selection, Plan::new(format, shape, tokens, multiprocessors).unwrap())
    }

    fn planned<X: DeviceElement + bytemuck::Pod>(
        &mut self,
        model: &Model,
        x: &[X],
        selection: Selection,
        plan: Plan,
    ) -> Mlp {
        let shape = model.host.shape();
        let tokens = x.len() / shape.d_model;
        Mlp {
            plan,
            weights: self.weights(model),
            tokens,
            x: self.hold(x).cast(),
            x_type: X::KIND,
            selection,
            residual: Some(self.hold(&vec![0.25f32; x.len()]).cast()),
            y: self.hold(&vec![f32::NAN; x.len()]).cast(),
            y_type: ElementKind::F32,
            kept: self.list(&[], shape.d_ff),
            together: None,
            workspace: self.hold(&vec![f32::NAN; plan.workspace_bytes() / 4]),
            workspace_bytes: plan.workspace_bytes(),
        }
    }

    fn run(&self, call: &impl RawCall) {
        // SAFETY: the engine holds every buffer of the call.
        unsafe { call.launch(self.device, self.device.raw_stream()).unwrap() };
    }
}

/// A call in two launches or more.
pub fn call_by_parts(device: &Device, model: &Model, x: &[f32], kept: &[u32]) {
    let mut engine = Engine { device, slices: Vec::new() };
    let list = engine.list(kept, model.host.shape().d_ff);
    let call = engine.call(model, x, Selection::List(list));
    engine.run(&call);
    device.synchronize().unwrap();
}

/// The safe call with the same inputs.
fn safe(device: &Device, model: &Model, x: &[f32], selection: &cuda::Selection<'_>) -> Vec<f32> {
    let tokens = x.len() / model.host.shape().d_model;
    let mut workspace = cuda::Workspace::new(device, &model.device, tokens).unwrap();
    let inputs = device.upload(x).unwrap();
    let residual = device.upload(&vec![0.25f32; x.len()]).unwrap();
    let mut y = device.zeros::<f32>(x.len()).unwrap();
    let residual = residual.as_view();
    cuda::forward(device, &model.device, &inputs, tokens, selection, Some(&residual), &mut y, &mut workspace).unwrap();
    device.download(&y).unwrap()
}

fn models(device: &Device, random: &mut Random) -> [Model; 3] {
    [
        Model::f16(device, random, shape(64, 100)).with_biases(device, random),
        Model::bf16(device, random, shape(40, 96)),
        Model::four_bit(device, random, [2, 1, 3], 32, shape(64, 128)).with_biases(device, random),
    ]
}

/// Every form of selection, few tokens and many.
#[test]
fn raw_call_over_an_engines_memory_matches_the_safe_call() {
    let Some(device) = device() else { return };
    let mut random = Random::new(71);
    for (model, tokens) in models(&device, &mut random).iter().flat_map(|model| [(model, 1), (model, 3), (model, 19)]) {
        let (d_model, d_ff) = (model.host.shape().d_model, model.host.shape().d_ff);
        let x = random.weights(tokens * d_model, 1.0);
        let mut engine = Engine { device: &device, slices: Vec::new() };
        let kept = subset(&mut random, d_ff, 0.6);
        let mut list = NeuronList::new(&device, d_ff).unwrap();
        list.set(&device, IndexList::new(&kept, d_ff).unwrap()).unwrap();
        let mut words = vec![0u64; tokens * d_ff.div_ceil(64)];
        for (t, j) in (0..tokens).flat_map(|t| (0..d_ff).map(move |j| (t, j))).filter(|_| random.unit() < 0.5) {
            words[t * d_ff.div_ceil(64) + j / 64] |= 1 << (j % 64);
        }
        let masks = cuda::upload_masks(&device, &TokenMasks::new(&words, tokens, d_ff).unwrap()).unwrap();
        let (raw_list, raw_masks) = (engine.list(&kept, d_ff), engine.hold(&words).cast());

        let factors = vec![0.5f32; d_ff.max(d_model)];
        let (by_input, by_neuron) = (&factors[..d_model], &factors[..d_ff]);
        let scale = [device.upload(by_input).unwrap(), device.upload(by_neuron).unwrap()];
        let raw_scale = [engine.hold(by_input), engine.hold(by_neuron)];
        let mut selections = vec![
            (cuda::Selection::All, Selection::All),
            (cuda::Selection::List(&list), Selection::List(raw_list)),
            (cuda::Selection::Masks(&masks), Selection::Masks(raw_masks)),
            (
                cuda::Selection::Union { list: &list, masks: &masks },
                Selection::Union { list: raw_list, masks: raw_masks },
            ),
        ];
        for (on, at) in [(ScoreOn::Input, 0), (ScoreOn::Gate, 1), (ScoreOn::Hidden, 1)] {
            let score = cuda::Score { on, channel_scale: Some(&scale[at]) };
            let raw_score = Score { on, channel_scale: Some(raw_scale[at]) };
            let (k, threshold) = (17, 0.05);
            selections.push((cuda::Selection::TopK { score, k }, Selection::TopK { score: raw_score, k }));
            let raw_threshold = Selection::Threshold { score: raw_score, threshold };
            selections.push((cuda::Selection::Threshold { score, threshold }, raw_threshold));
        }
        for (selection, raw) in selections {
            let call = engine.call(model, &x, raw);
            engine.run(&call);
            let expected = safe(&device, model, &x, &selection);
            assert_eq!(bits(&engine.read(call.y.cast(), x.len())), bits(&expected), "{raw:?}, {tokens} tokens");
        }
    }
}

/// Both parts in one launch, over tiles of columns and parts of the list that are more than the teams of blocks and fewer, neurons that are
/// fewer than blocks, a part's rows that are more than are asked for ahead, rows wider than shared memory; again in the same memory.
#[test]
fn one_token_in_one_launch_matches_two_bit_for_bit() {
    let Some(device) = device() else { return };
    let mut random = Random::new(75);
    let (f16, bf16, four_bits): (usize, usize, usize) = (0, 1, 2);
    let cases = [
        (f16, 64, 100, 0.6),
        (f16, 1096, 2304, 0.9),
        (f16, 8, 3, 1.0),
        (bf16, 264, 1600, 0.3),
        (bf16, 8200, 24, 0.0),
        (four_bits, 64, 96, 0.7),
        (four_bits, 1056, 6400, 0.95),
        (four_bits, 576, 1536, 0.1),
        (four_bits, 32_800, 32, 0.5),
    ];
    for (kind, d_model, d_ff, share) in cases {
        let of = shape(d_model, d_ff);
        let model = match kind {
            0 => Model::f16(&device, &mut random, of),
            1 => Model::bf16(&device, &mut random, of),
            _ => Model::four_bit(&device, &mut random, [d_ff / 32 % 4, 2, d_model / 32 % 4], 32, of),
        };
        let model = model.with_biases(&device, &mut random);
        let mut engine = Engine { device: &device, slices: Vec::new() };
        let list = engine.list(&subset(&mut random, d_ff, share), d_ff);
        let mut words = vec![0u32; mask_words(d_ff)];
        (0..d_ff).filter(|j| j % 5 < 3).for_each(|j| words[j / 32] |= 1 << (j % 32));
        let masks = engine.hold(&words);
        let x = random.weights(d_model, 1.0);
        for selection in [Selection::List(list), Selection::Masks(masks), Selection::All] {
            let two = engine.call(&model, &x, selection);
            engine.run(&two);
            let together = engine.hold(&[0u32; 2]);
            let one = Mlp { together: Some(together), ..engine.call(&model, &x, selection) };
            for _ in 0..2 {
                engine.run(&one);
                let [expected, got] = [two, one].map(|call| bits(&engine.read(call.y.cast(), d_model)));
                assert!(got == expected, "{selection:?}, kind {kind}, {d_model} of {d_ff}");
                assert_eq!(engine.read(together, 2), [0u32, 0]);
            }
        }
    }
}

/// A plan for fewer multiprocessors than there are has maxima of as many blocks; with one for more there would be blocks that wait for others
/// that are not there.
#[test]
fn plan_for_another_number_of_multiprocessors_matches_two_launches_bit_for_bit() {
    let Some(device) = device() else { return };
    let mut random = Random::new(76);
    let of = shape(64, 384);
    for model in [Model::f16(&device, &mut random, of), Model::four_bit(&device, &mut random, [1, 2, 3], 32, of)] {
        let x = random.weights(of.d_model, 1.0);
        let format = PackedWeights::new(&model.host).unwrap().format;
        for multiprocessors in [1, 5, 300] {
            let mut engine = Engine { device: &device, slices: Vec::new() };
            let plan = Plan::new(format, of, 1, multiprocessors).unwrap();
            let two = engine.planned(&model, &x, Selection::All, plan);
            engine.run(&two);
            let together = Some(engine.hold(&[0u32; 2]));
            let one = Mlp { together, ..engine.planned(&model, &x, Selection::All, plan) };
            engine.run(&one);
            let [expected, got] = [two, one].map(|call| bits(&engine.read(call.y.cast(), of.d_model)));
            assert!(got == expected, "{format:?} planned for {multiprocessors} multiprocessors");
        }
    }
}

/// Blocks wait until all warps of all have left their products, and the last part of the list until the sums of the others are there.
#[test]
fn one_launch_matches_two_where_warps_are_late() {
    const NAME: &str = "raw::one_launch_matches_two_where_warps_are_late";
    with_late_warps(NAME, one_token_in_one_launch_matches_two_bit_for_bit);
}

/// x in 16 bits is what it is in f32.
#[test]
fn sixteen_bit_inputs_match_widened_ones_bit_for_bit() {
    fn compare<X: DeviceElement>(device: &Device, model: &Model, x: &[f32], selection: &cuda::Selection<'_>) {
        let tokens = x.len() / model.host.shape().d_model;
        let narrow: Vec<X> = x.iter().map(|&x| X::from_f32(x)).collect();
        let wide: Vec<f32> = narrow.iter().map(|x| x.to_f32()).collect();
        let mut workspace = cuda::Workspace::new(device, &model.device, tokens).unwrap();
        let inputs = device.upload(&narrow).unwrap();
        let residual = device.upload(&vec![0.25f32; x.len()]).unwrap();
        let (residual, mut y) = (residual.as_view(), device.zeros::<f32>(x.len()).unwrap());
        cuda::forward(device, &model.device, &inputs, tokens, selection, Some(&residual), &mut y, &mut workspace)
            .unwrap();
        assert_eq!(bits(&device.download(&y).unwrap()), bits(&safe(device, model, &wide, selection)), "{selection:?}");
    }
    let Some(device) = device() else { return };
    let mut random = Random::new(72);
    for (model, tokens) in models(&device, &mut random).iter().flat_map(|model| [(model, 1), (model, 2), (model, 11)]) {
        let x = random.weights(tokens * model.host.shape().d_model, 1.0);
        let on_input = cuda::Score { on: ScoreOn::Input, channel_scale: None };
        for selection in [cuda::Selection::All, cuda::Selection::TopK { score: on_input, k: 20 }] {
            compare::<f16>(&device, model, &x, &selection);
            compare::<bf16>(&device, model, &x, &selection);
        }
    }
}

/// An engine that puts its own selection between the parts.
#[test]
fn parts_one_by_one_match_the_whole_call() {
    let Some(device) = device() else { return };
    let mut random = Random::new(73);
    let sixteen_bits = Model::f16(&device, &mut random, shape(64, 100));
    let four_bits = Model::four_bit(&device, &mut random, [2, 1, 3], 32, shape(64, 128));
    for (model, tokens) in [(&sixteen_bits, 3), (&four_bits, 1)] {
        parts_one_by_one(&device, model, &random.weights(tokens * 64, 1.0));
    }
}

fn parts_one_by_one(device: &Device, model: &Model, x: &[f32]) {
    let mut engine = Engine { device, slices: Vec::new() };
    let limit = model.host.shape().d_ff;
    let words = x.len() / 64 * mask_words(limit);
    let masks: Vec<u32> = (0..words).map(|i| if i % 4 == 3 { 0xf } else { 0x5a5a_3c3c }).collect();
    let masks = engine.hold(&masks);
    let whole = engine.call(model, x, Selection::Masks(masks));
    engine.run(&whole);

    let Mlp { plan, weights, tokens, kept, .. } = engine.call(model, x, Selection::All);
    let (format, shape, stride) = (plan.format(), plan.shape(), plan.stride());
    engine.run(&Union { masks, tokens, limit, list: kept });
    let neurons = Neurons { list: Some(kept), masks: Some(masks), limit };
    let mut floats = || engine.hold(&vec![0f32; tokens * stride]);
    let (gate_values, hidden) = (floats(), floats());
    let x_address = engine.hold(x).cast();
    // the engine's own number of blocks, of which some find no neurons
    let count = 97;
    let maxima = Maxima { bits: engine.hold(&vec![u32::MAX; tokens * count]), count };
    let maxima = (format == RowFormat::FourBit).then_some(maxima);
    let arrivals = Some(Arrivals { counters: engine.hold(&[u32::MAX; 9]), count: 9 });
    engine.run(&GateUp {
        format,
        shape,
        gate: Some(weights.gate),
        up: Some(weights.up),
        neurons,
        tokens,
        x: Activations::Floats(x_address, ElementKind::F32),
        gate_values,
        hidden: Some(hidden),
        stride,
        maxima,
        arrivals,
    });
    let (splits, matrix) = (plan.splits(tokens), weights.down);
    let partial = engine.hold(&vec![0f32; splits * x.len()]);
    let hidden = Activations::Floats(hidden.cast(), ElementKind::F32);
    let y = engine.hold(&vec![f32::NAN; x.len()]);
    let output = Output { bias: matrix.bias, residual: whole.residual, y: y.cast(), y_type: ElementKind::F32 };
    engine.run(&Down {
        format,
        shape,
        matrix,
        neurons,
        tokens,
        hidden,
        maxima,
        stride,
        splits,
        partial,
        arrivals,
        output,
    });
    assert_eq!(bits(&engine.read(y, x.len())), bits(&engine.read(whole.y.cast(), x.len())));
}

/// A change that makes a call one that must be refused, and the field that the error names.
type Spoiled = (&'static str, fn(&mut Mlp));

#[test]
fn raw_call_refuses_bad_addresses_and_sizes() {
    const SPOILED: &[Spoiled] = &[
        ("x", |call| call.x = Address::NULL),
        ("x", |call| call.x = call.x.offset(4)),
        ("y", |call| call.y = Address::new(2)),
        ("residual", |call| call.residual = Some(Address::new(6))),
        ("tokens", |call| call.tokens += 1),
        ("workspace", |call| call.workspace_bytes -= 4),
        ("workspace", |call| call.workspace = call.workspace.offset(1)),
        ("rows", |call| call.weights.gate.rows = Address::NULL),
        ("rows", |call| call.weights.down.rows = call.weights.down.rows.offset(8)),
        ("scales", |call| call.weights.up.scales = None),
        ("scales", |call| call.weights.down.scales = Some(Address::new(8))),
        ("group_size", |call| {
            call.weights.gate.group = call.weights.gate.group.map(|group| Group { size: 48, ..group });
        }),
        ("bias", |call| call.weights.gate.bias = Some(Address::NULL)),
        ("list", |call| call.kept.list = Address::NULL),
        ("count", |call| call.kept.count = Address::new(3)),
        ("k", |call| call.selection = Selection::TopK { score: score(), k: 129 }),
        ("threshold", |call| call.selection = Selection::Threshold { score: score(), threshold: f32::NAN }),
        ("channel_scale", |call| {
            let channel_scale = Some(Address::NULL);
            call.selection = Selection::TopK { score: Score { channel_scale, ..score() }, k: 3 };
        }),
        ("selection masks", |call| call.selection = Selection::Masks(Address::NULL)),
    ];
    let Some(device) = device() else { return };
    let mut random = Random::new(74);
    let model = Model::four_bit(&device, &mut random, [2, 1, 3], 32, shape(64, 128));
    let x = random.weights(2 * 64, 1.0);
    let mut engine = Engine { device: &device, slices: Vec::new() };
    let good = engine.call(&model, &x, Selection::TopK { score: score(), k: 5 });
    good.check(&device).unwrap();
    for (name, spoil) in SPOILED {
        let mut call = good;
        spoil(&mut call);
        let error = call.check(&device).unwrap_err();
        let what = match &error {
            Error::Shape { what, .. }
            | Error::Misaligned { what, .. }
            | Error::Length { what, .. }
            | Error::Value { what, .. } => *what,
            other => panic!("{name}: {other}"),
        };
        assert_eq!(what, *name, "{error}");
        // SAFETY: nothing is launched.
        let launched = unsafe { call.launch(&device, device.raw_stream()) };
        assert_eq!(launched.unwrap_err().to_string(), error.to_string());
    }
    for (d_model, d_ff, max_tokens) in [(12, 8, 1), (0, 8, 1), (8, 0, 1), (8, 8, 0), (8, 8, 513), (1 << 25, 8, 1)] {
        assert!(matches!(Plan::new(RowFormat::F16, shape(d_model, d_ff), max_tokens, 132), Err(Error::Shape { .. })));
    }
}

fn score() -> Score {
    Score { on: ScoreOn::Gate, channel_scale: None }
}

#[test]
fn refused_raw_calls_launch_nothing() {
    let Some(all) = metered("raw::refused_raw_calls_launch_nothing", |_| raw_call_refuses_bad_addresses_and_sizes())
    else {
        return;
    };
    assert!(all.is_empty(), "{all:?}");
}
