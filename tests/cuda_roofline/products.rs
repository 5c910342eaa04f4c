//! y = x · wᵀ in W4A8 at the shape of QQQ's figure.

use std::collections::HashMap;

use moray::Device;
use moray::w4a8::cuda::{Activations, Architecture, Epilogue, Variant, Weight, Workspace, linear_with};
use moray::w4a8::{ActScales, Format, Offset, PackedWeight, QuantizedWeight, Scales};

use crate::MULTIPROCESSORS;
use crate::counter::{Counter, Launch, SAMPLED_COLUMNS, with_bytes};

/// N, K.
const SHAPE: (usize, usize) = (8192, 21760);

const TOKENS: [usize; 8] = [1, 4, 16, 64, 128, 512, 1024, 2048];

/// A weight of zeros: what a kernel does depends on none of its values.
pub fn weight(device: &Device, format: Format, n: usize, k: usize) -> Weight {
    let scales = match format.group_size() {
        None => Scales::per_channel(vec![1.0; n]),
        Some(group_size) => Scales::per_group(vec![half::f16::ONE; n * k / group_size], None),
    };
    let zeros = QuantizedWeight::new(n, k, format, vec![0; n * k], scales).unwrap();
    Weight::upload(device, &PackedWeight::pack(&zeros)).unwrap()
}

/// Launches of a product.
fn launches(counter: &mut Counter, weight: &Weight, m: usize, variant: Variant) -> Vec<Launch> {
    let (n, k, device) = (weight.n(), weight.k(), &counter.device);
    let mut activations = Activations::with_capacity(device, m, k).unwrap();
    let x = device.zeros::<half::f16>(m * k).unwrap();
    activations.quantize(device, &x.as_view(), m, k).unwrap();
    let mut y = device.zeros::<half::f16>(m * n).unwrap();
    let (partial, arrived) = variant.workspace_words(m, n);
    let mut workspace = Workspace::with_words(device, partial.max(1), arrived.max(1)).unwrap();
    let all = counter.launches(|device| {
        let (mut y, epilogue) = (y.as_view_mut(), Epilogue::default());
        linear_with(device, variant, weight, &activations, epilogue, &mut y, &mut workspace).unwrap();
    });
    // partial sums are written and read
    with_bytes(all, &[("w4a8", bytes(weight, m) + 8 * partial, weight.bytes())])
}

/// Weights, codes with their scales, results in 16 bits.
fn bytes(weight: &Weight, m: usize) -> usize {
    weight.bytes() + m * (weight.k() + 4) + 2 * m * weight.n()
}

pub fn count(counter: &mut Counter) {
    let (n, k) = SHAPE;
    for (name, format) in [("per-channel", Format::per_channel()), ("g128", Format::per_group(128, Offset::None))] {
        let weight = weight(&counter.device, format, n, k);
        let mut known: HashMap<(usize, Variant), Vec<Launch>> = HashMap::new();
        for m in TOKENS {
            for multiprocessors in MULTIPROCESSORS {
                let architecture = Architecture { capability: (8, 0), multiprocessors };
                let variant = Variant::choose(architecture, format, ActScales::Token, m, n, k);
                let launches =
                    known.entry((m, variant)).or_insert_with(|| launches(counter, &weight, m, variant)).clone();
                let id = format!("w4a8/{name}/qqq.figure/m{m}");
                counter.row(&id, Some(multiprocessors), bytes(&weight, m), launches);
            }
        }
    }
}

/// A launch of so many columns of blocks, of which at most [`SAMPLED_COLUMNS`] run.
pub fn count_columns(counter: &mut Counter, columns: u32) -> Launch {
    let weight = weight(&counter.device, Format::per_channel(), 64 * columns as usize, 1024);
    let variant = Variant::Gemm { tokens: 64, splits: 1 };
    let launch = launches(counter, &weight, 128, variant).remove(0);
    assert_eq!(launch.blocks_run(), 2 * u64::from(columns.min(SAMPLED_COLUMNS)));
    launch
}
