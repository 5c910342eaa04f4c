//! The choice of a kernel, which needs no device.

use moray::w4a8::cuda::{Architecture, Variant};
use moray::w4a8::{ActScales, Format, Offset};

const H200: Architecture = Architecture { capability: (9, 0), multiprocessors: 132 };
const GROUPED: Format = Format::per_group(128, Offset::None);

#[test]
fn choice_reads_weights_once_up_to_64_tokens() {
    for m in 1..=64 {
        for format in [Format::per_channel(), GROUPED] {
            match Variant::choose(H200, format, ActScales::Token, m, 4096, 4096) {
                Variant::Gemv => assert!(m <= 4),
                Variant::Gemm { tokens, .. } => assert!(m > 4 && m <= tokens as usize),
            }
        }
    }
}

#[test]
fn choice_splits_k_only_where_bits_stay_and_blocks_are_missing() {
    let with = |scales, format, m, n, k| match Variant::choose(H200, format, scales, m, n, k) {
        Variant::Gemm { splits, .. } => splits,
        Variant::Gemv => panic!("expected a GEMM"),
    };
    let splits = |format, m, n, k| with(ActScales::Token, format, m, n, k);
    // 64 blocks for 132 multiprocessors: 4 splits make 256, which is at most two each
    assert_eq!(splits(Format::per_channel(), 16, 4096, 4096), 4);
    assert_eq!(splits(GROUPED, 16, 4096, 4096), 1);
    // fine scales are added in f32, in the order of K
    assert_eq!(with(ActScales::Fine, Format::per_channel(), 16, 4096, 4096), 1);
    // 448 blocks are enough
    assert_eq!(splits(Format::per_channel(), 16, 28672, 4096), 1);
    // K of 576 is 5 stages: one split of at least 4
    assert_eq!(splits(Format::w8(), 16, 576, 576), 1);
}

#[test]
fn choice_fits_the_workspace_of_its_device() {
    for multiprocessors in [1, 16, 108, 132, 170] {
        let architecture = Architecture { capability: (8, 0), multiprocessors };
        let blocks = 2 * multiprocessors as usize;
        for m in [5, 16, 17, 64, 65, 1000] {
            for (n, k) in [(1, 32), (576, 1536), (4096, 4096), (4096, 65536), (57344, 8192)] {
                let variant = Variant::choose(architecture, Format::per_channel(), ActScales::Token, m, n, k);
                let (partial, arrived) = variant.workspace_words(m, n);
                assert!(partial <= blocks * 64 * 64 && arrived <= blocks, "{multiprocessors}: {m} {n} {k}");
            }
        }
    }
}
