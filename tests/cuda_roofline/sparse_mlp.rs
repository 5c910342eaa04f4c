//! One token's sparse MLP in the shape of Llama-3-8B, with neurons that are spread evenly.

use half::f16;
use moray::sparse_mlp::cuda::raw::Plan;
use moray::sparse_mlp::cuda::{NeuronList, RowFormat, Selection, Weights, Workspace, forward};
use moray::sparse_mlp::{self as host, Activation, IndexList, Shape, Weights as HostWeights, bytes_read};
use moray::w4a8::{Format, Offset, QuantizedWeight, Scales};

use crate::counter::{Counter, with_bytes};

const SHAPE: Shape = Shape { d_model: 4096, d_ff: 14336, activation: Activation::Silu };

/// Percent of the neurons.
const KEPT: [usize; 3] = [50, 25, 10];

const GROUP: usize = 64;

fn dense() -> HostWeights {
    let zeros = vec![f16::ZERO; SHAPE.d_model * SHAPE.d_ff];
    HostWeights::new(SHAPE, &zeros, &zeros, &zeros).unwrap()
}

fn four_bit() -> HostWeights {
    let Shape { d_model, d_ff, .. } = SHAPE;
    let matrix = |n: usize, k: usize| {
        let scales = Scales::per_group(vec![f16::ONE; n * k / GROUP], None);
        QuantizedWeight::new(n, k, Format::per_group(GROUP, Offset::None), vec![0; n * k], scales).unwrap()
    };
    let (wide, down) = (matrix(d_ff, d_model), matrix(d_model, d_ff));
    HostWeights::from_quantized(SHAPE, &wide, &wide, &down).unwrap()
}

/// What blocks ask for of so many rows of down before they wait: the first rows of each warp's part of the list in a tile of columns, as far
/// as there are so many; kernels/sparse_mlp/down.cuh.
fn ahead_bytes(weights: &Weights, count: usize, multiprocessors: u32) -> usize {
    const WARPS: usize = 8;
    let (columns, bytes_of_8, rows) = if weights.format() == RowFormat::FourBit { (512, 4, 16) } else { (256, 16, 8) };
    let plan = Plan::new(weights.format(), SHAPE, 1, multiprocessors as usize).unwrap();
    let parts = plan.splits(1) * WARPS;
    let share = count.div_ceil(parts).next_multiple_of(4);
    let asked: usize = (0..parts).map(|part| count.saturating_sub(part * share).min(share).min(rows)).sum();
    let tiles = SHAPE.d_model / columns;
    assert!(tiles * plan.splits(1) <= 2 * multiprocessors as usize, "no team takes two units");
    asked * tiles * columns / 8 * bytes_of_8
}

pub fn count(counter: &mut Counter) {
    let multiprocessors = counter.device.multiprocessors();
    for (name, host) in [("f16", dense()), ("q4-g64", four_bit())] {
        let weights = Weights::upload(&counter.device, &host).unwrap();
        for kept in KEPT {
            let list: Vec<u32> =
                (0..SHAPE.d_ff).filter(|i| (i + 1) * kept / 100 > i * kept / 100).map(|i| i as u32).collect();
            let (launches, bytes) = {
                let device = &counter.device;
                let on_host = IndexList::new(&list, SHAPE.d_ff).unwrap();
                let mut on_device = NeuronList::new(device, SHAPE.d_ff).unwrap();
                on_device.set(device, on_host).unwrap();
                let x = device.zeros::<f32>(SHAPE.d_model).unwrap();
                let mut y = device.zeros::<f32>(SHAPE.d_model).unwrap();
                let mut workspace = Workspace::new(device, &weights, 1).unwrap();
                let selection = Selection::List(&on_device);
                let launches = counter.launches(|device| {
                    forward(device, &weights, &x, 1, &selection, None, &mut y, &mut workspace).unwrap();
                });
                (launches, bytes_read(&host, &host::Selection::List(on_host), &list))
            };
            let ahead = ahead_bytes(&weights, list.len(), multiprocessors);
            let id = format!("sparse_mlp/{name}/llama-3-8b/kept-{kept}/m1");
            let launches = with_bytes(launches, &[("sparse_mlp", bytes, 0)]);
            let launches = launches.into_iter().map(|launch| launch.waits(1, ahead)).collect();
            counter.row(&id, Some(multiprocessors), bytes, launches);
        }
    }
}
