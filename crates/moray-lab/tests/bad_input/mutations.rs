//! A bounded, seeded run of what the fuzz targets do: every corpus file, cut and changed many times.

use std::time::{Duration, Instant};

use moray_lab::fixture::SplitMix;

use super::{Case, gguf_cases, hugging_face, quantization_cases, safetensors_cases, tokenizer_cases};

/// Numbers that lengths, counts and offsets are replaced by.
const LENGTHS: [u64; 10] = [0, 1, 31, 33, 0x7fff_ffff, 0xffff_ffff, 1 << 40, u64::MAX / 8, u64::MAX - 7, u64::MAX];

/// Changes a file in one to three places: bits, bytes, lengths, cuts and copies.
fn mutate(bytes: &[u8], random: &mut SplitMix) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for _ in 0..=random.below(3) {
        if out.is_empty() {
            return out;
        }
        // Headers come first and decide more than data, so half of the changes aim there.
        let limit = if random.below(2) == 0 { out.len() } else { out.len().min(512) };
        let at = random.below(limit);
        match random.below(6) {
            0 => out[at] ^= 1 << random.below(8),
            1 => out[at] = random.next() as u8,
            2 => out.truncate(at),
            3 if at + 8 <= out.len() => {
                out[at..at + 8].copy_from_slice(&LENGTHS[random.below(LENGTHS.len())].to_le_bytes());
            }
            4 if at + 4 <= out.len() => {
                out[at..at + 4].copy_from_slice(&(LENGTHS[random.below(LENGTHS.len())] as u32).to_le_bytes());
            }
            _ => {
                let part = out[at..(at + 1 + random.below(64)).min(out.len())].to_vec();
                let to = random.below(out.len());
                out.splice(to..to, part);
            }
        }
    }
    out
}

/// Runs `read` on changed corpus files; a panic is the failure. Returns how many were accepted and refused.
fn run(cases: &[Case], seed: u64, rounds: usize, read: fn(&[u8]) -> moray_lab::Result<()>) -> (usize, usize) {
    let mut random = SplitMix(seed);
    let (mut accepted, mut slowest) = (0, Duration::ZERO);
    for _ in 0..rounds {
        for case in cases {
            let bytes = mutate(&case.bytes, &mut random);
            let start = Instant::now();
            accepted += usize::from(read(&bytes).is_ok());
            slowest = slowest.max(start.elapsed());
        }
    }
    // Files of a few kilobytes are read in microseconds; an absurd count that was believed takes far longer.
    assert!(slowest < Duration::from_secs(2), "slowest file: {slowest:?}");
    (accepted, rounds * cases.len() - accepted)
}

/// Both outcomes must occur, or the changes do not reach what they are meant to test.
fn check(outcome: (usize, usize)) {
    assert!(outcome.0 > 100 && outcome.1 > 100, "accepted and refused: {outcome:?}");
}

#[test]
fn gguf_reader_survives_seeded_mutations() {
    check(run(&gguf_cases::cases(), 0x6767_7566, 200, moray_lab::fuzzing::gguf));
}

#[test]
fn safetensors_reader_survives_seeded_mutations() {
    check(run(&safetensors_cases::cases(), 0x7361_6665, 1000, moray_lab::fuzzing::safetensors));
}

#[test]
fn config_reader_survives_seeded_mutations() {
    check(run(&hugging_face::config_cases(), 0x636f_6e66, 500, moray_lab::fuzzing::config));
}

#[test]
fn tokenizer_reader_survives_seeded_mutations() {
    // a change of JSON text seldom is JSON
    let (accepted, refused) = run(&tokenizer_cases::cases(), 0x746f_6b65, 200, moray_lab::fuzzing::tokenizer);
    assert!(accepted > 10 && refused > 1000, "accepted {accepted}, refused {refused}");
}

#[test]
fn streaming_survives_seeded_mutations() {
    let (accepted, refused) = run(&tokenizer_cases::stream_cases(), 0x7374_7265, 200, moray_lab::fuzzing::stream);
    assert_eq!((accepted > 100, refused), (true, 0));
}

#[test]
fn quantization_reader_survives_seeded_mutations() {
    check(run(&quantization_cases::cases(), 0x7175_616e, 1000, moray_lab::fuzzing::quantization));
}
