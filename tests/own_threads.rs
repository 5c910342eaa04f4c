//! Every CPU operation on threads of an engine's own: rayon's, which steal, and come late or not at all, and threads that share a call by
//! ranges of its outputs.

mod common;

use common::{Random, bits};
use moray::attention::{
    AttentionShape, Call, Heads, KvCache, KvDtype, KvPolicy, KvShape, Limits, Span, Workspace, attend, attend_range,
    write_kv,
};
use moray::sparse_mlp::{
    self, Activation, Gate, IndexList, Input, ScoreOn, Selection, Shape, Weights, down, forward, gate_up,
};
use moray::threads::{Pool, SharedSlice};
use moray::w4a8::{Activations, Epilogue, Format, Offset, PackedWeight, linear, quantize};
use moray::{Cpu, DenseType, Isa, input_sparse};
use std::ops::Range;

/// A pool of rayon's.
struct Rayon(rayon::ThreadPool);

impl Pool for Rayon {
    fn threads(&self) -> usize {
        self.0.current_num_threads()
    }

    fn run(&self, job: &(dyn Fn() + Sync)) {
        self.0.broadcast(|_| job());
    }
}

fn on_rayon(threads: usize) -> Cpu {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    Cpu::on(Rayon(pool), Isa::detect()).unwrap()
}

/// The bits of an operation's result on one thread of moray's, and on pools of rayon's, from several callers at once.
fn compare(operation: impl Fn(&Cpu) -> Vec<f32> + Sync) {
    let expected = bits(&operation(&Cpu::new(1, Isa::detect()).unwrap()));
    for threads in [1, 2, 5] {
        let cpu = on_rayon(threads);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| (0..5).for_each(|_| assert_eq!(bits(&operation(&cpu)), expected, "{threads} threads")));
            }
        });
    }
}

#[test]
fn linear_on_an_engines_threads_matches_one_thread() {
    let (m, n, k) = (5, 200, 256);
    let mut random = Random::new(11);
    let (w, x) = (random.weights(n * k, 1.0), random.weights(m * k, 1.0));
    let weight = PackedWeight::pack(&quantize(&w, n, k, Format::per_group(64, Offset::F16)).unwrap());
    compare(|cpu| {
        let (mut activations, mut y) = (Activations::default(), vec![0.0; m * n]);
        activations.quantize(cpu, &x, m, k).unwrap();
        linear(cpu, &weight, &activations, Epilogue::default(), &mut y).unwrap();
        y
    });
}

#[test]
fn sparse_mlp_on_an_engines_threads_matches_one_thread() {
    let shape = Shape { d_model: 128, d_ff: 480, activation: Activation::Silu };
    let (elems, tokens) = (shape.d_model * shape.d_ff, 4);
    let mut random = Random::new(12);
    let [gate, up, down] = [(); 3].map(|()| random.weights(elems, 0.1));
    let x = random.weights(tokens * shape.d_model, 1.0);
    let four_bit = |w: &[f32], n, k| quantize(w, n, k, Format::per_group(32, Offset::None)).unwrap();
    let (d, f) = (shape.d_model, shape.d_ff);
    let quantized = [four_bit(&gate, f, d), four_bit(&up, f, d), four_bit(&down, d, f)];
    let score = sparse_mlp::Score::plain(ScoreOn::Hidden);
    for weights in [
        Weights::new(shape, &gate, &up, &down).unwrap(),
        Weights::from_quantized(shape, &quantized[0], &quantized[1], &quantized[2]).unwrap(),
    ] {
        for selection in [Selection::All, Selection::TopK { score, k: 100 }] {
            compare(|cpu| {
                let mut workspace = sparse_mlp::Workspace::new(&weights, tokens).unwrap();
                let mut y = vec![0.0; x.len()];
                forward(cpu, &weights, &x, &selection, None, &mut y, &mut workspace).unwrap();
                y
            });
        }
    }
}

#[test]
fn attention_on_an_engines_threads_matches_one_thread() {
    let shape = AttentionShape::new(4, 2, 32).unwrap();
    let kv = KvShape { n_layers: 1, n_slots: 1, n_kv_heads: 2, head_dim: 32, capacity: 700 };
    let mut random = Random::new(13);
    let (before, last) = (Span { slot: 0, start: 0, len: 600 }, Span { slot: 0, start: 600, len: 1 });
    let [k, v] = [(); 2].map(|()| random.weights(601 * 64, 1.0));
    let q = random.weights(601 * 128, 1.0);
    let limits = Limits { max_rows: 601, max_spans: 1, capacity: 700 };
    compare(|cpu| {
        let mut cache = KvCache::new(kv, KvDtype::F16).unwrap();
        let mut workspace = Workspace::new(cpu, shape, limits).unwrap();
        let mut out = vec![0.0; q.len()];
        let mut row = 0;
        // a prompt, in tiles, then a token, whose context is divided
        for span in [before, last] {
            let call = Call { shape, layer: 0, spans: &[span], heads: Heads::All };
            let (kv, rows) = (row * 64..(row + span.len) * 64, row * 128..(row + span.len) * 128);
            write_kv(cpu, &call, KvPolicy::WriteAll, None, &k[kv.clone()], &v[kv], &mut cache).unwrap();
            attend(cpu, &call, &q[rows.clone()], &cache, &mut out[rows], &mut workspace).unwrap();
            row += span.len;
        }
        out
    });
}

/// Calls `part(i, output)` for every i below `parts` on a thread of its own, all with the same output, whose elements begin as NaN.
fn share(len: usize, parts: usize, part: impl Fn(usize, SharedSlice<'_, f32>) + Sync) -> Vec<f32> {
    let mut output = vec![f32::NAN; len];
    let data = output.as_mut_ptr().expose_provenance();
    std::thread::scope(|scope| {
        for i in 0..parts {
            let part = &part;
            // SAFETY: the vector outlives the scope, and parts write elements that no other part does.
            let output = unsafe { SharedSlice::from_raw_parts(std::ptr::with_exposed_provenance_mut(data), len) };
            scope.spawn(move || part(i, output));
        }
    });
    output
}

/// Range `i` of `parts` in 0..n, cut at multiples of `step`.
fn range(i: usize, parts: usize, n: usize, step: usize) -> Range<usize> {
    let cut = |i: usize| (i * n.div_ceil(step) / parts * step).min(n);
    cut(i)..cut(i + 1)
}

#[test]
fn products_by_input_that_threads_share_match_whole_ones() {
    let (k, random) = (160, &mut Random::new(21));
    for n in [16, 70, 576, 1000] {
        let w = random.weights(n * k, 1.0);
        let (bias, cpu) = (random.weights(n, 1.0), Cpu::new(1, Isa::detect()).unwrap());
        let mut floats = input_sparse::Weight::zeros(n, k, DenseType::F16).unwrap();
        floats.set_rows(0, &w).unwrap();
        let quantized = quantize(&w, n, k, Format::per_group(32, Offset::F16)).unwrap();
        let four_bit = input_sparse::Weight::from_quantized(&quantized).unwrap();
        for (weight, m) in [&floats, &four_bit].into_iter().flat_map(|weight| [(weight, 1), (weight, 5), (weight, 40)])
        {
            let (x, residual) = (random.weights(m * k, 1.0), random.weights(m * n, 1.0));
            let epilogue = || Epilogue { bias: Some(&bias), residual: Some(&residual) };
            let mut whole = vec![f32::NAN; m * n];
            let mut workspace = input_sparse::Workspace::default();
            input_sparse::linear(&cpu, weight, &x, 0.4, epilogue(), &mut whole, &mut workspace).unwrap();
            for (parts, step) in [(2, 16), (3, 16), (7, 16), (4, 1)] {
                let y = share(m * n, parts, |i, y| {
                    let (rows, mut workspace) = (range(i, parts, n, step), input_sparse::Workspace::default());
                    input_sparse::linear_rows(&cpu, weight, &[rows], &x, 0.4, epilogue(), y, &mut workspace).unwrap();
                });
                assert_eq!(bits(&y), bits(&whole), "{n} × {k}, {m} tokens, {parts} parts");
            }
        }
    }
}

#[test]
fn parts_of_the_sparse_mlp_that_threads_share_match_whole_ones() {
    let random = &mut Random::new(22);
    for (d, f) in [(64, 480), (96, 160), (288, 608)] {
        let shape = Shape { d_model: d, d_ff: f, activation: Activation::Silu };
        let [gate, up, down] = [(); 3].map(|()| random.weights(d * f, 0.1));
        let four_bit = |w: &[f32], n, k| {
            let offset = if d == 96 { Format::per_channel() } else { Format::per_group(32, Offset::F16) };
            quantize(w, n, k, offset).unwrap()
        };
        let quantized = [four_bit(&gate, f, d), four_bit(&up, f, d), four_bit(&down, d, f)];
        let biases = [random.weights(f, 0.1), random.weights(f, 0.1), random.weights(d, 0.1)];
        for (four_bit, weights) in [
            (false, Weights::new(shape, &gate, &up, &down).unwrap()),
            (true, Weights::from_quantized(shape, &quantized[0], &quantized[1], &quantized[2]).unwrap()),
        ] {
            let weights = weights.with_biases(&biases[0], &biases[1], &biases[2]).unwrap();
            for tokens in [1, 3, 20] {
                for keep in [1.0, 0.4, 0.0] {
                    let kept: Vec<u32> = (0..f as u32).filter(|_| random.unit() < keep).collect();
                    compare_parts(random, (&weights, four_bit), &kept, tokens);
                }
            }
        }
    }
}

/// A call of a list by parts, each shared by threads, against the whole call.
fn compare_parts(random: &mut Random, (weights, four_bit): (&Weights, bool), kept: &[u32], tokens: usize) {
    let Shape { d_model, d_ff, .. } = weights.shape();
    let (cpu, list) = (Cpu::new(1, Isa::detect()).unwrap(), IndexList::new(kept, d_ff).unwrap());
    let (x, residual) = (random.weights(tokens * d_model, 1.0), random.weights(tokens * d_model, 1.0));
    let mut whole = vec![f32::NAN; x.len()];
    let mut workspace = sparse_mlp::Workspace::new(weights, tokens).unwrap();
    forward(&cpu, weights, &x, &Selection::List(list), Some(&residual), &mut whole, &mut workspace).unwrap();
    let hidden: Vec<f32> = (0..tokens).flat_map(|t| workspace.hidden(t).to_vec()).collect();
    let gate: Vec<f32> = (0..tokens).flat_map(|t| workspace.gate(t).to_vec()).collect();

    let mut int8 = Activations::default();
    int8.quantize(&cpu, &x, tokens, d_model).unwrap();
    let input = || if four_bit { Input::Int8(&int8) } else { Input::Floats(&x) };
    for parts in [1, 2, 3] {
        let positions = |i| range(i, parts, kept.len(), 16);
        let untouched = share(hidden.len(), parts, |i, _| {
            // only that threads write no more than they say is looked at here
            let mut apart = vec![f32::NAN; hidden.len()];
            gate_up(&cpu, weights, input(), list, positions(i), Gate::Computed(None), Some((&mut apart[..]).into()))
                .unwrap();
            for (at, value) in apart.iter().enumerate() {
                assert_eq!(positions(i).contains(&(at % kept.len())), !value.is_nan(), "position {at} of part {i}");
            }
        });
        assert!(untouched.iter().all(|value| value.is_nan()));
        let computed = share(gate.len(), parts, |i, gate| {
            gate_up(&cpu, weights, input(), list, positions(i), Gate::Computed(Some(gate)), None).unwrap();
        });
        assert_eq!(bits(&computed), bits(&gate), "the gate, {parts} parts");
        let products = share(hidden.len(), parts, |i, hidden| {
            gate_up(&cpu, weights, input(), list, positions(i), Gate::Given(&gate), Some(hidden)).unwrap();
        });
        assert_eq!(bits(&products), bits(&hidden), "products of a given gate, {parts} parts");
        let products = share(hidden.len(), parts, |i, hidden| {
            gate_up(&cpu, weights, input(), list, positions(i), Gate::Computed(None), Some(hidden)).unwrap();
        });
        assert_eq!(bits(&products), bits(&hidden), "products, {parts} parts");
        for step in [16, 1] {
            let y = share(x.len(), parts, |i, y| {
                let mut workspace = sparse_mlp::Workspace::new(weights, tokens).unwrap();
                let (columns, residual) = (range(i, parts, d_model, step), Some(&residual[..]));
                down(&cpu, weights, list, &products, columns, residual, y, &mut workspace).unwrap();
            });
            assert_eq!(
                bits(&y),
                bits(&whole),
                "{d_model} × {d_ff}, {tokens} tokens, {} kept, {parts} parts",
                kept.len()
            );
        }
    }
}

/// Weights of a shape in floating point.
fn float(shape: Shape) -> Weights {
    let zeros = vec![0f32; shape.d_model * shape.d_ff];
    Weights::new(shape, &zeros, &zeros, &zeros).unwrap()
}

#[test]
fn attention_that_threads_share_matches_the_whole_call() {
    let shape = AttentionShape::new(9, 3, 24).unwrap();
    let kv = KvShape { n_layers: 1, n_slots: 3, n_kv_heads: 3, head_dim: 24, capacity: 700 };
    let random = &mut Random::new(23);
    let lens = [600, 1, 5];
    let spans: [Span; 3] = std::array::from_fn(|i| Span { slot: 2 - i, start: 0, len: lens[i] });
    let rows: usize = lens.iter().sum();
    let [k, v] = [(); 2].map(|()| random.weights(rows * shape.kv_elems(), 1.0));
    let q = random.weights(rows * shape.q_elems(), 1.0);
    let limits = Limits { max_rows: rows, max_spans: 3, capacity: 700 };
    let cpu = Cpu::new(1, Isa::detect()).unwrap();
    for heads in [Heads::All, Heads::Mask { words: &[0b101, 0b111_000_000, 0] }] {
        let call = Call { shape, layer: 0, spans: &spans, heads };
        let mut cache = KvCache::new(kv, KvDtype::F16).unwrap();
        write_kv(&cpu, &call, KvPolicy::WriteAll, None, &k, &v, &mut cache).unwrap();
        let mut whole = vec![f32::NAN; q.len()];
        attend(&cpu, &call, &q, &cache, &mut whole, &mut Workspace::new(&cpu, shape, limits).unwrap()).unwrap();
        // teams of two as well, which would divide a whole call along the context
        for threads in [1, 2] {
            let out = share(q.len(), 6, |i, out| {
                let cpu = Cpu::new(threads, Isa::detect()).unwrap();
                let mut workspace = Workspace::new(&cpu, shape, limits).unwrap();
                let (spans, heads) = (if i < 3 { 0..1 } else { 1..3 }, i % 3..i % 3 + 1);
                attend_range(&cpu, &call, spans, heads, &q, &cache, out, &mut workspace).unwrap();
            });
            assert_eq!(bits(&out), bits(&whole));
        }
    }
    let call = Call { shape, layer: 0, spans: &spans, heads: Heads::All };
    let cache = KvCache::new(kv, KvDtype::F16).unwrap();
    let (mut workspace, mut out) = (Workspace::new(&cpu, shape, limits).unwrap(), vec![f32::NAN; q.len()]);
    for (spans, heads, what) in
        [(0..4, 0..3, "spans"), (0..3, 2..4, "kv_heads"), (Range { start: 3, end: 2 }, 0..3, "spans")]
    {
        let error = attend_range(&cpu, &call, spans, heads, &q, &cache, &mut out, &mut workspace).unwrap_err();
        assert!(error.to_string().starts_with(&format!("{what}: expected an index below")), "{error}");
    }
    attend_range(&cpu, &call, 1..1, 0..3, &q, &cache, &mut out, &mut workspace).unwrap();
    assert!(out.iter().all(|value| value.is_nan()));
}

#[test]
fn parts_of_the_sparse_mlp_refuse_what_they_do_not_take() {
    let shape = Shape { d_model: 32, d_ff: 40, activation: Activation::Relu };
    let (weights, cpu) = (float(shape), Cpu::new(1, Isa::detect()).unwrap());
    let kept: Vec<u32> = (0..20).collect();
    let (list, x) = (IndexList::new(&kept, 40).unwrap(), [1.0; 32]);
    let try_gate_up = |x: Input<'_>, list, positions, gate: Gate<'_>, len: usize| {
        let mut hidden = vec![0.0; len];
        gate_up(&cpu, &weights, x, list, positions, gate, Some((&mut hidden[..]).into())).unwrap_err().to_string()
    };
    let (floats, none) = (Input::Floats(&x), || Gate::Computed(None));
    assert_eq!(try_gate_up(floats, list, 0..20, none(), 19), "hidden: expected 20 elements, got 19");
    assert_eq!(try_gate_up(floats, list, 0..20, Gate::Given(&[0.0; 3]), 20), "gate: expected 20 elements, got 3");
    assert!(try_gate_up(floats, list, 0..8, none(), 20).starts_with("positions: expected multiples of 16"));
    assert!(try_gate_up(floats, list, 16..32, none(), 20).starts_with("positions: expected an index below 21, got 32"));
    assert!(
        try_gate_up(Input::Floats(&x[1..]), list, 0..20, none(), 20).starts_with("x: expected a multiple of d_model")
    );
    let int8 = Activations::default();
    assert!(try_gate_up(Input::Int8(&int8), list, 0..20, none(), 20).starts_with("x: expected f32 inputs"));
    let other = IndexList::new(&kept, 41).unwrap();
    assert!(try_gate_up(floats, other, 0..20, none(), 20).starts_with("list's neurons: expected 40 elements, got 41"));
    let nowhere = gate_up(&cpu, &weights, floats, list, 0..20, none(), None).unwrap_err();
    assert!(nowhere.to_string().starts_with("outputs: expected somewhere"), "{nowhere}");

    let mut workspace = sparse_mlp::Workspace::new(&weights, 1).unwrap();
    let mut try_down = |hidden: usize, columns, residual: Option<&[f32]>, y: usize| {
        let (hidden, mut y) = (vec![0.0; hidden], vec![f32::NAN; y]);
        let error = down(&cpu, &weights, list, &hidden, columns, residual, &mut y, &mut workspace).unwrap_err();
        assert!(y.iter().all(|y| y.is_nan()));
        error.to_string()
    };
    assert_eq!(try_down(19, 0..32, None, 32), "hidden: expected 20 elements, got 19");
    assert!(try_down(20, 0..33, None, 32).starts_with("columns: expected an index below 33, got 33"));
    assert_eq!(try_down(20, 0..32, Some(&[0.0; 3]), 32), "residual: expected 32 elements, got 3");
    assert!(try_down(20, 0..32, None, 31).starts_with("y: expected a multiple of d_model"));
    assert!(try_down(40, 0..32, None, 64).starts_with("tokens: expected at most"));
}
