//! The choice of a kernel, which needs no device.

use moray::w4a8::cuda::{Architecture, Variant};
use moray::w4a8::{ActScales, Format, Offset};

const H200: Architecture = Architecture { capability: (9, 0), multiprocessors: 132 };
const GROUPED: Format = Format::per_group(128, Offset::None);

#[test]
fn choice_reads_weights_once_up_to_64_tokens() {
    for m in 1..=64 {
        for (format, n) in [(Format::per_channel(), 4096), (GROUPED, 4096), (GROUPED, 8192)] {
            match Variant::choose(H200, format, ActScales::Token, m, n, 4096) {
                Variant::Gemv => assert!(m <= if format == GROUPED { 4 } else { 1 } && n == 4096),
                Variant::Gemm { tokens, .. } => {
                    assert!((m > 1 || n == 8192) && m <= tokens as usize);
                }
            }
        }
    }
}

/// Where memory is nearly as fast as the second-level cache, tokens that every row of tiles reads again count.
#[test]
fn choice_of_a_gemv_matches_what_the_second_level_cache_has_to_spare() {
    let most = |capability, format| {
        let architecture = Architecture { capability, multiprocessors: 132 };
        let is_gemv = |m| Variant::choose(architecture, format, ActScales::Token, m, 4096, 11_008) == Variant::Gemv;
        (1..=5).take_while(|&m| is_gemv(m)).count()
    };
    for (format, hbm) in [(Format::per_channel(), 1), (Format::w8(), 3), (Format::two_level(128), 0)] {
        for capability in [(8, 0), (8, 6), (8, 9), (12, 0)] {
            assert_eq!(most(capability, format), 4, "{format:?} on {capability:?}");
        }
        for capability in [(9, 0), (10, 0)] {
            assert_eq!(most(capability, format), hbm, "{format:?} on {capability:?}");
        }
    }
}

#[test]
fn choice_shares_k_over_the_multiprocessors() {
    let with = |scales, format: Format, m, n, k| match Variant::choose(H200, format, scales, m, n, k) {
        Variant::Gemm { tokens, blocks } => {
            let variant = Variant::Gemm { tokens, blocks };
            (tokens, blocks, variant.workspace_words(format, scales, m, n, k).1)
        }
        Variant::Gemv => panic!("expected a GEMM"),
    };
    let of = |format, m, n, k| with(ActScales::Token, format, m, n, k);
    // 16 tiles of 256 features, each of 32 stages, 4 for each block
    assert_eq!(of(Format::per_channel(), 16, 4096, 4096), (16, 128, 16));
    assert_eq!(of(Format::w8(), 64, 4096, 4096), (64, 132, 16));
    // 64 tiles of 64 features, whose four runs two blocks for each multiprocessor share
    assert_eq!(of(GROUPED, 16, 4096, 4096), (16, 256, 64));
    assert_eq!(with(ActScales::Fine, Format::per_channel(), 16, 4096, 4096), (16, 256, 64));
    // K of one run is not cut
    assert_eq!(of(GROUPED, 16, 4096, 1024), (16, 64, 0));
    // 64 tiles of 8 runs, 4 for each block at most
    assert_eq!(of(GROUPED, 128, 8192, 21760), (128, 132, 64));
    // 1024 tiles, 7 for each block and 100 that are too many for their chains to have room
    assert_eq!(of(GROUPED, 2048, 8192, 21760), (128, 132, 0));
    // 512 tiles, three for each block and 116 that they share
    assert_eq!(of(Format::per_channel(), 2048, 8192, 21760), (128, 132, 116));
    // 256 tiles, of which 124 are left for 132 blocks: cutting them would take longer than it saves
    assert_eq!(of(Format::per_channel(), 2048, 4096, 4096), (128, 132, 0));
    // as many tiles as blocks
    assert_eq!(of(Format::per_channel(), 384, 11264, 4096), (128, 132, 0));
    // K of 576 is 5 stages: one block has all
    assert_eq!(of(Format::per_channel(), 16, 256, 576), (16, 1, 0));
    // 96 tiles of 256 × 64 are fewer than 128 of 128 × 128
    assert_eq!(of(GROUPED, 129, 8192, 1024).0, 64);
    assert_eq!(of(GROUPED, 2048, 8192, 4096).0, 128);
}

#[test]
fn choice_fits_the_workspace_of_its_device() {
    for multiprocessors in [1, 16, 108, 132, 170] {
        let architecture = Architecture { capability: (8, 0), multiprocessors };
        for m in [5, 16, 17, 64, 65, 1000] {
            for (n, k) in [(1, 32), (576, 1536), (4096, 4096), (4096, 65536), (57344, 8192)] {
                for (format, scales) in [
                    (Format::per_channel(), ActScales::Token),
                    (Format::w8(), ActScales::Fine),
                    (GROUPED, ActScales::Token),
                ] {
                    let variant = Variant::choose(architecture, format, scales, m, n, k);
                    let (partial, arrived) = variant.workspace_words(format, scales, m, n, k);
                    let blocks = multiprocessors as usize;
                    let limit = (blocks * 384 * 256, 2 * blocks);
                    assert!(partial <= limit.0 && arrived <= limit.1, "{multiprocessors}: {m} {n} {k}, {partial}");
                }
            }
        }
    }
}
