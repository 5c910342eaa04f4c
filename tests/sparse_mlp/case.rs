//! Random weights of every form, and every way to select.

use half::{bf16, f16};
use moray::Cpu;
use moray::sparse_mlp::{
    Activation, IndexList, Score, ScoreOn, Selection, Shape, TokenMasks, Weights, Workspace, forward, mask_from_list,
};
use moray::w4a8::{Format, Offset, QuantizedWeight, Scales};

use crate::common::Random;

pub fn shape(d_model: usize, d_ff: usize) -> Shape {
    Shape { d_model, d_ff, activation: Activation::Silu }
}

/// Random codes and scales; kind 0 per channel, 1 symmetric, 2 with offsets, 3 with zero points.
pub fn random_weight(random: &mut Random, kind: usize, group_size: usize, n: usize, k: usize) -> QuantizedWeight {
    let groups = if k % group_size == 0 { n * k / group_size } else { n * k / 32 };
    let group_size = if k % group_size == 0 { group_size } else { 32 };
    let scale16 = |random: &mut Random| (0..groups).map(|_| f16::from_f32(random.weight(0.01))).collect::<Vec<_>>();
    let grouped = |offset| Format::per_group(group_size, offset);
    let (format, scales) = match kind {
        0 => (Format::per_channel(), Scales::per_channel(random.weights(n, 0.01))),
        1 => (grouped(Offset::None), Scales::per_group(scale16(random), None)),
        2 => (grouped(Offset::F16), Scales::per_group(scale16(random), Some(scale16(random).into()))),
        _ => {
            let (scale, points) = (scale16(random), (0..groups).map(|_| random.below(16) as u8));
            (grouped(Offset::ZeroPoint), Scales::per_group(scale, Some(points.collect::<Vec<_>>().into())))
        }
    };
    let codes = (0..n * k).map(|_| random.below(16) as i8).collect();
    QuantizedWeight::new(n, k, format, codes, scales).unwrap()
}

pub struct FourBit {
    pub gate: QuantizedWeight,
    pub up: QuantizedWeight,
    pub down: QuantizedWeight,
    pub weights: Weights,
}

pub fn four_bit(random: &mut Random, kinds: [usize; 3], group_size: usize, shape: Shape) -> FourBit {
    let gate = random_weight(random, kinds[0], group_size, shape.d_ff, shape.d_model);
    let up = random_weight(random, kinds[1], group_size, shape.d_ff, shape.d_model);
    let down = random_weight(random, kinds[2], group_size, shape.d_model, shape.d_ff);
    let weights = Weights::from_quantized(shape, &gate, &up, &down).unwrap();
    FourBit { gate, up, down, weights }
}

pub fn call(
    cpu: &Cpu,
    weights: &Weights,
    x: &[f32],
    selection: &Selection<'_>,
    residual: Option<&[f32]>,
) -> (Vec<f32>, Workspace) {
    let mut workspace = Workspace::new(weights, (x.len() / weights.shape().d_model).max(1)).unwrap();
    let mut y = vec![f32::NAN; x.len()];
    forward(cpu, weights, x, selection, residual, &mut y, &mut workspace).unwrap();
    (y, workspace)
}

/// A random subset of 0..n, kept with probability `q`.
pub fn subset(random: &mut Random, n: usize, q: f32) -> Vec<u32> {
    (0..n as u32).filter(|_| random.unit() < q).collect()
}

pub fn masks_of(random: &mut Random, tokens: usize, n: usize, q: f32) -> Vec<u64> {
    let mut words = vec![0; tokens * n.div_ceil(64)];
    for token in words.chunks_exact_mut(n.div_ceil(64)) {
        mask_from_list(IndexList::new(&subset(random, n, q), n).unwrap(), token).unwrap();
    }
    words
}

pub fn has(masks: &[u64], n: usize, token: usize, j: usize) -> bool {
    masks[token * n.div_ceil(64) + j / 64] >> (j % 64) & 1 == 1
}

/// Every way to select, for `m` tokens.
pub fn selections<'a>(
    list: &'a [u32],
    words: &'a [u64],
    factors: &'a [f32],
    m: usize,
    d_ff: usize,
) -> Vec<Selection<'a>> {
    let list = IndexList::new(list, d_ff).unwrap();
    let masks = TokenMasks::new(words, m, d_ff).unwrap();
    let hidden = Score { on: ScoreOn::Hidden, channel_scale: Some(factors) };
    vec![
        Selection::All,
        Selection::List(list),
        Selection::Masks(masks),
        Selection::Union { list, masks },
        Selection::Threshold { score: Score::plain(ScoreOn::Gate), threshold: 0.1 },
        Selection::Threshold { score: Score::plain(ScoreOn::Input), threshold: 0.5 },
        Selection::TopK { score: hidden, k: d_ff.div_ceil(3) },
        Selection::TopK { score: Score::plain(ScoreOn::Gate), k: d_ff.div_ceil(2) },
    ]
}

/// All weight forms of one shape: 16-bit and f32, and 4-bit where the sizes allow it; with and without biases.
pub fn all_weights(random: &mut Random, d_model: usize, d_ff: usize) -> Vec<Weights> {
    let n = d_model * d_ff;
    let (gate, up, down) = (random.weights(n, 0.1), random.weights(n, 0.1), random.weights(n, 0.1));
    let shape = shape(d_model, d_ff);
    let half = |w: &[f32]| w.iter().map(|&w| f16::from_f32(w)).collect::<Vec<_>>();
    let brain = |w: &[f32]| w.iter().map(|&w| bf16::from_f32(w)).collect::<Vec<_>>();
    let (b0, b1, b2) = (random.weights(d_ff, 0.1), random.weights(d_ff, 0.1), random.weights(d_model, 0.1));
    let mut all = vec![
        Weights::new(shape, &gate, &up, &down).unwrap(),
        Weights::new(shape, &half(&gate), &half(&up), &half(&down)).unwrap(),
        Weights::new(shape, &brain(&gate), &brain(&up), &brain(&down)).unwrap(),
    ];
    if d_model % 32 == 0 && d_ff % 32 == 0 {
        for kind in 0..4 {
            all.push(four_bit(random, [kind; 3], 32, shape).weights);
        }
    }
    let biased = all.iter().map(|w| w.clone().with_biases(&b0, &b1, &b2).unwrap()).collect::<Vec<_>>();
    all.extend(biased);
    all
}
