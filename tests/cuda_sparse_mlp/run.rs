//! Weights of every form, and a call on the device with everything it leaves.

use half::{bf16, f16};
use moray::Device;
use moray::sparse_mlp::cuda::{Selection, Weights, Workspace, forward};
use moray::sparse_mlp::{Activation, Shape, Weights as HostWeights};
use moray::w4a8::{Format, Offset, QuantizedWeight, Scales};

use crate::common::Random;

/// Rows as the host and the device hold them.
pub struct Model {
    pub host: HostWeights,
    pub device: Weights,
    /// 4 bits: no code times scale plus offset is larger.
    pub largest_4bit: Option<f32>,
}

/// Random codes and scales; kind 0 per channel, 1 symmetric, 2 with offsets, 3 with zero points.
fn random_4bit(random: &mut Random, kind: usize, group_size: usize, n: usize, k: usize) -> (QuantizedWeight, f32) {
    let groups = n * k / group_size;
    let scale16 = |random: &mut Random| (0..groups).map(|_| f16::from_f32(random.weight(0.01))).collect::<Vec<_>>();
    let largest16 = |scales: &[f16]| scales.iter().fold(0f32, |max, s| max.max(s.to_f32().abs()));
    let grouped = |offset| Format::per_group(group_size, offset);
    let (format, scales, largest) = match kind {
        0 => {
            let scale = random.weights(n, 0.01);
            let largest = scale.iter().fold(0f32, |max, s| max.max(s.abs()));
            (Format::per_channel(), Scales::per_channel(scale), 16.0 * largest)
        }
        _ => {
            let scale = scale16(random);
            let mut largest = 16.0 * largest16(&scale);
            let (offset, values) = match kind {
                1 => (Offset::None, None),
                2 => {
                    let offset = scale16(random);
                    largest += largest16(&offset);
                    (Offset::F16, Some(offset.into()))
                }
                _ => {
                    let points: Vec<u8> = (0..groups).map(|_| random.below(16) as u8).collect();
                    (Offset::ZeroPoint, Some(points.into()))
                }
            };
            (grouped(offset), Scales::per_group(scale, values), largest)
        }
    };
    let codes = (0..n * k).map(|_| random.below(16) as i8).collect();
    (QuantizedWeight::new(n, k, format, codes, scales).unwrap(), largest)
}

impl Model {
    pub fn f16(device: &Device, random: &mut Random, shape: Shape) -> Model {
        let elems = shape.d_model * shape.d_ff;
        let mut matrix = || random.weights(elems, 0.2).iter().map(|&w| f16::from_f32(w)).collect::<Vec<_>>();
        Model::new(device, HostWeights::new(shape, &matrix(), &matrix(), &matrix()).unwrap(), None)
    }

    pub fn bf16(device: &Device, random: &mut Random, shape: Shape) -> Model {
        let elems = shape.d_model * shape.d_ff;
        let mut matrix = || random.weights(elems, 0.2).iter().map(|&w| bf16::from_f32(w)).collect::<Vec<_>>();
        Model::new(device, HostWeights::new(shape, &matrix(), &matrix(), &matrix()).unwrap(), None)
    }

    pub fn four_bit(device: &Device, random: &mut Random, kinds: [usize; 3], group_size: usize, shape: Shape) -> Model {
        let (gate, a) = random_4bit(random, kinds[0], group_size, shape.d_ff, shape.d_model);
        let (up, b) = random_4bit(random, kinds[1], group_size, shape.d_ff, shape.d_model);
        let (down, c) = random_4bit(random, kinds[2], group_size, shape.d_model, shape.d_ff);
        let host = HostWeights::from_quantized(shape, &gate, &up, &down).unwrap();
        Model::new(device, host, Some(a.max(b).max(c)))
    }

    pub fn with_biases(self, device: &Device, random: &mut Random) -> Model {
        let Shape { d_model, d_ff, .. } = self.host.shape();
        let (gate, up) = (random.weights(d_ff, 0.3), random.weights(d_ff, 0.3));
        let host = self.host.with_biases(&gate, &up, &random.weights(d_model, 0.3)).unwrap();
        Model::new(device, host, self.largest_4bit)
    }

    fn new(device: &Device, host: HostWeights, largest_4bit: Option<f32>) -> Model {
        Model { device: Weights::upload(device, &host).unwrap(), host, largest_4bit }
    }
}

pub fn shape(d_model: usize, d_ff: usize) -> Shape {
    Shape { d_model, d_ff, activation: Activation::Silu }
}

/// What a call leaves: `gate` and `hidden` are [tokens, stride].
pub struct Output {
    pub y: Vec<f32>,
    pub gate: Vec<f32>,
    pub hidden: Vec<f32>,
    pub stride: usize,
    pub kept: Vec<u32>,
}

pub fn call(
    device: &Device,
    weights: &Weights,
    x: &[f32],
    selection: &Selection<'_>,
    residual: Option<&[f32]>,
) -> Output {
    let tokens = x.len() / weights.shape().d_model;
    let mut workspace = Workspace::new(device, weights, tokens).unwrap();
    call_in(device, weights, x, selection, residual, &mut workspace)
}

pub fn call_in(
    device: &Device,
    weights: &Weights,
    x: &[f32],
    selection: &Selection<'_>,
    residual: Option<&[f32]>,
    workspace: &mut Workspace,
) -> Output {
    let tokens = x.len() / weights.shape().d_model;
    let inputs = device.upload(x).unwrap();
    let residual = residual.map(|residual| device.upload(residual).unwrap());
    let mut y = device.upload(&vec![f32::NAN; x.len()]).unwrap();
    let residual = residual.as_ref().map(|residual| residual.as_view());
    forward(device, weights, &inputs, tokens, selection, residual.as_ref(), &mut y, workspace).unwrap();
    Output {
        y: device.download(&y).unwrap(),
        gate: device.download(&workspace.gate()).unwrap(),
        hidden: device.download(&workspace.hidden()).unwrap(),
        stride: workspace.stride(),
        kept: workspace.kept().download(device).unwrap(),
    }
}

/// A random subset of 0..n, kept with probability `q`.
pub fn subset(random: &mut Random, n: usize, q: f32) -> Vec<u32> {
    (0..n as u32).filter(|_| random.unit() < q).collect()
}
