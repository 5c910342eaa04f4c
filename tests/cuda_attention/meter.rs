//! What attention reads, as the simulated driver counts it.

use moray::attention::cuda::KvFormat;
use moray::attention::{Heads, Span};

use crate::case::OwnedHeads;
use crate::device::{Launch, metered};
use crate::exact::plain_case;
use crate::run::DeviceCase;

fn launches<'a>(all: &'a [Launch], kernel: &str) -> Vec<&'a Launch> {
    all.iter().filter(|launch| launch.kernel() == kernel).collect()
}

/// Sectors of K and V that a decode step must read, and those of the rest: 24-byte views, spans, q.
fn sectors(rows: usize, head_dim: usize) -> u64 {
    (rows * 2 * head_dim * 2 / 32) as u64
}

#[test]
fn decode_reads_each_row_of_running_groups_once_and_nothing_of_others() {
    const NAME: &str = "meter::decode_reads_each_row_of_running_groups_once_and_nothing_of_others";
    let Some(all) = metered(NAME, |device| {
        let mut case = plain_case(8, 4, 64, &[(599, 1)]);
        let cache = case.fill(device);
        case.attend::<f32>(device, &cache);
        case.case.heads = OwnedHeads::new(2, &case.case.shape, &[0b0010]);
        case.attend::<f32>(device, &cache);
        case.case.heads = OwnedHeads::new(3, &case.case.shape, &[0]);
        case.attend::<f32>(device, &cache);
    }) else {
        return;
    };
    let decode = launches(&all, "attention_decode_f16_64");
    assert_eq!(decode.len(), 3);
    for (launch, groups) in decode.iter().zip([4, 1, 0]) {
        let ideal = sectors(600 * groups, 64);
        let read = launch.count("global_load_sectors");
        // beside K and V every block reads its span, its heads and its rows of q: 3 splits x 4 groups, 2 rows of 8 sectors
        let rest = 12 * (4 * 32 + 2 * 8 + 8);
        assert!(read >= ideal, "{read} sectors, but {ideal} of K and V alone, {groups} groups");
        assert!(read as f64 <= 1.05 * ideal as f64 + rest as f64, "{read} sectors, ideally {ideal}, {groups} groups");
        if groups == 0 {
            assert_eq!(launch.count("tensor_instructions"), 0);
        }
    }
}

#[test]
fn holes_are_not_read() {
    const NAME: &str = "meter::holes_are_not_read";
    let Some(all) = metered(NAME, |device| {
        let mut case = plain_case(4, 2, 64, &[(500, 1)]);
        case.case.policy = moray::attention::KvPolicy::Hole;
        case.case.history = OwnedHeads::new(2, &case.case.shape, &[0b01]);
        let cache = case.fill(device);
        case.attend_spans::<f32>(device, &cache, &case.case.spans, Heads::All, &case.case.q());
    }) else {
        return;
    };
    let launch = launches(&all, "attention_decode_f16_64")[0];
    // group 0 holds 501 positions, group 1 only the last
    let (ideal, rest) = (sectors(502, 64), 6 * (4 * 32 + 2 * 8 + 8));
    assert!(launch.count("global_load_sectors") as f64 <= 1.05 * ideal as f64 + rest as f64);
}

#[test]
fn shared_memory_of_the_main_loops_has_no_bank_conflicts() {
    const NAME: &str = "meter::shared_memory_of_the_main_loops_has_no_bank_conflicts";
    let Some(all) = metered(NAME, |device| {
        let formats = [KvFormat::F16, KvFormat::Bf16, KvFormat::F32, KvFormat::Int8];
        for (format, head_dim) in formats.iter().flat_map(|format| [64, 128, 256].map(|head_dim| (*format, head_dim))) {
            let case = DeviceCase { format, ..plain_case(4, 1, head_dim, &[(299, 1)]) };
            case.attend::<f32>(device, &case.fill(device));
            let case = DeviceCase { format, ..plain_case(4, 1, head_dim, &[(0, 96)]) };
            let cache = case.fill(device);
            case.attend_spans::<f32>(
                device,
                &cache,
                &[Span { slot: 0, start: 0, len: 96 }],
                Heads::All,
                &case.case.q(),
            );
        }
    }) else {
        return;
    };
    let attention = all.iter().filter(|launch| launch.kernel().contains("code_") || launch.kernel().contains("fill_"));
    let mut seen = 0;
    for launch in attention {
        let (conflicts, passes) = (launch.count("shared_bank_conflicts"), launch.count("shared_passes"));
        assert_eq!(conflicts, 0, "{} of {passes} passes in {}", conflicts, launch.kernel());
        seen += 1;
    }
    assert_eq!(seen, 24);
}
