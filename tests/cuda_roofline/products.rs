//! y = x · wᵀ in W4A8 at the shape of QQQ's figure.

use std::collections::HashMap;

use moray::Device;
use moray::w4a8::cuda::{Activations, Architecture, Epilogue, Variant, Weight, Workspace, linear_with};
use moray::w4a8::{ActScales, Format, GroupScale, Offset, PackedWeight, QuantizedWeight, Scales};

use crate::counter::{Counter, Launch, SAMPLED_COLUMNS, with_bytes};
use crate::{CAPABILITIES, MULTIPROCESSORS};

/// N, K.
const SHAPE: (usize, usize) = (8192, 21760);

/// Rows of tiles whose tiles of the same features follow each other, and so share weights in the second-level cache: kernels/w4a8/gemm.cuh.
const BAND: usize = 4;

/// Tokens of the two modes that the table is about: where a variant begins and ends, and prefill.
const TOKENS: [usize; 12] = [1, 2, 4, 5, 16, 17, 64, 128, 129, 512, 1024, 2048];

/// Tokens of the others.
const FEW_TOKENS: [usize; 5] = [1, 16, 64, 128, 2048];

/// A weight of zeros: what a kernel does depends on none of its values.
pub fn weight(device: &Device, format: Format, n: usize, k: usize) -> Weight {
    let scales = match (format.group_scale(), format.groups(k)) {
        (None, _) => Scales::per_channel(vec![1.0; n]),
        (Some(GroupScale::F16), groups) => Scales::per_group(vec![half::f16::ONE; n * groups], None),
        (_, groups) => Scales::over_channel(vec![1u8; n * groups], vec![1.0; n]),
    };
    let zeros = QuantizedWeight::new(n, k, format, vec![0; n * k], scales).unwrap();
    Weight::upload(device, &PackedWeight::pack(&zeros)).unwrap()
}

/// Launches of a product.
fn launches(counter: &mut Counter, weight: &Weight, scales: ActScales, m: usize, variant: Variant) -> Vec<Launch> {
    let (n, k, device) = (weight.n(), weight.k(), &counter.device);
    let mut activations = Activations::with_capacity(device, m, k).unwrap();
    activations.set_scales(scales);
    let x = device.zeros::<half::f16>(m * k).unwrap();
    activations.quantize(device, &x.as_view(), m, k).unwrap();
    let mut y = device.zeros::<half::f16>(m * n).unwrap();
    let (partial, arrived) = variant.workspace_words(weight.format(), scales, m, n, k);
    let mut workspace = Workspace::with_words(device, partial.max(1), arrived.max(1)).unwrap();
    let all = counter.launches(|device| {
        let (mut y, epilogue) = (y.as_view_mut(), Epilogue::default());
        linear_with(device, variant, weight, &activations, epilogue, &mut y, &mut workspace).unwrap();
    });
    // partial sums are written and read; of f32, where each run of K has room, those of a tile's beginning, for whom has its end
    let rooms = if weight.format().stays_integer() && scales == ActScales::Token { 1 } else { k.div_ceil(1024).min(8) };
    let [columns, rows] = variant.tiles(weight.format(), scales, m, n);
    let tiles = [columns * rows.min(BAND), rows.div_ceil(BAND)];
    let all = with_bytes(all, &[("w4a8", bytes(weight, scales, m) + 8 * partial / rooms, weight.bytes())]);
    all.into_iter().map(|launch| launch.of_tiles(tiles)).collect()
}

/// Weights, codes with their scales, results in 16 bits.
fn bytes(weight: &Weight, scales: ActScales, m: usize) -> usize {
    weight.bytes() + m * (weight.k() + 4 * scales.of_token(weight.k())) + 2 * m * weight.n()
}

pub fn count(counter: &mut Counter) {
    let (n, k) = SHAPE;
    let (per_channel, g128) = (Format::per_channel(), Format::per_group(128, Offset::None));
    let modes: [(&str, Format, ActScales, &[usize]); 5] = [
        ("per-channel", per_channel, ActScales::Token, &TOKENS),
        ("g128", g128, ActScales::Token, &TOKENS),
        ("two-level-g128", Format::two_level(128), ActScales::Token, &FEW_TOKENS),
        ("per-channel-fine", per_channel, ActScales::Fine, &FEW_TOKENS),
        ("g128-fine", g128, ActScales::Fine, &FEW_TOKENS),
    ];
    for (name, format, scales, tokens) in modes {
        let weight = weight(&counter.device, format, n, k);
        let mut known: HashMap<(usize, Variant), Vec<Launch>> = HashMap::new();
        for &m in tokens {
            for (multiprocessors, capability) in MULTIPROCESSORS.into_iter().zip(CAPABILITIES) {
                let architecture = Architecture { capability, multiprocessors };
                let variant = Variant::choose(architecture, format, scales, m, n, k);
                let launches =
                    known.entry((m, variant)).or_insert_with(|| launches(counter, &weight, scales, m, variant)).clone();
                let id = format!("w4a8/{name}/qqq.figure/m{m}");
                counter.row(&id, Some(multiprocessors), bytes(&weight, scales, m), launches);
            }
        }
    }
}

/// A launch of so many columns of blocks, of which at most [`SAMPLED_COLUMNS`] run.
pub fn count_columns(counter: &mut Counter, columns: u32) -> Launch {
    let weight = weight(&counter.device, Format::per_channel(), 256 * columns as usize, 1024);
    let variant = Variant::Gemm { tokens: 64, blocks: columns };
    let launch = launches(counter, &weight, ActScales::Token, 64, variant).remove(0);
    assert_eq!(launch.blocks_run(), u64::from(columns.min(SAMPLED_COLUMNS)));
    launch
}
