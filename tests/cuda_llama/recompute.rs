//! Keys and values that are computed after their head was skipped.

use crate::common::bits;
use crate::device::device;
use crate::near::{LEN, run, settings};
use crate::plain::{Kind, Plain, tokens};
use moray::attention::{KvDtype, KvPolicy};
use moray::llama::{LogitRows, Sequence, Session, Settings, cuda};
use moray::policy::HeadNorm;
use moray::w4a8::{Format, Offset};
use moray::{Cpu, Device};

/// Chosen anew every three tokens.
const REFRESH: usize = 3;

fn with(kv: KvPolicy, kv_dtype: KvDtype) -> Settings {
    Settings { kv, kv_dtype, ..settings(LEN) }.with(HeadNorm::new(0.5, REFRESH).unwrap().whole_groups())
}

fn plain() -> Plain {
    Plain::new(&Kind { heads: (8, 4, 16), biased: true, ..Kind::default() }, 40)
}

#[test]
fn recomputed_rows_match_those_written_at_once_bit_for_bit_where_the_lag_covers_what_was_skipped() {
    let Some(device) = device() else { return };
    let tokens = tokens(41, LEN);
    for model in [plain().dense(), plain().w4a8(Format::per_group(32, Offset::F16))] {
        let model = cuda::upload(&device, &model).unwrap();
        // an f32 cache keeps inputs as they were
        let got = |kv| bits(&run(&device, &model, &with(kv, KvDtype::F32), &tokens, LEN - 10));
        let write_all = got(KvPolicy::WriteAll);
        assert!(got(KvPolicy::Recompute { lag: REFRESH - 1 }) == write_all);
        assert!(got(KvPolicy::Recompute { lag: 64 }) == write_all);
        let short = got(KvPolicy::Recompute { lag: 1 });
        assert!(short != write_all && short != got(KvPolicy::Hole));
    }
}

/// What is written has the CPU's bits, so that nothing but attention's own rounding is between the two: at most 4 times what it is
/// over a cache with holes.
#[test]
fn recomputed_rows_give_logits_as_near_to_the_cpus_as_holes_do() {
    let Some(device) = device() else { return };
    let (cpu, tokens, model) = (Cpu::detect(), tokens(41, LEN), plain().dense());
    let uploaded = cuda::upload(&device, &model).unwrap();
    for dtype in [KvDtype::F32, KvDtype::Bf16, KvDtype::Int8] {
        let apart = |kv| {
            let on_cpu = run(&cpu, &model, &with(kv, dtype), &tokens, LEN - 10);
            let got = run(&device, &uploaded, &with(kv, dtype), &tokens, LEN - 10);
            on_cpu.iter().zip(&got).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
        };
        let holes = apart(KvPolicy::Hole);
        for lag in [1, 64] {
            let filled = apart(KvPolicy::Recompute { lag });
            println!("{dtype:?}, lag {lag}: {filled} apart, with holes {holes}");
            assert!(filled <= 4.0 * holes, "{dtype:?}, lag {lag}: {filled}, with holes {holes}");
        }
    }
}

/// Forgetting a part of a sequence forgets its inputs: what follows is as in a session that never had it.
#[test]
fn truncated_sequences_match_new_ones() {
    let Some(device) = device() else { return };
    let (tokens, model) = (tokens(42, LEN), cuda::upload(&device, &plain().dense()).unwrap());
    let settings = with(KvPolicy::Recompute { lag: 8 }, KvDtype::F16);
    let mut session = model.session(&device, settings.clone()).unwrap();
    let feed = |session: &mut Session<Device>, range: std::ops::Range<usize>| {
        for token in &tokens[range] {
            let sequence = Sequence { slot: 1, tokens: &[*token] };
            model.forward(&device, session, &[sequence], LogitRows::None).unwrap();
        }
    };
    model.prefill(&device, &mut session, 1, &tokens[30..40]).unwrap();
    feed(&mut session, 40..50);
    model.truncate(&device, &mut session, 1, 0).unwrap();
    let after = |session: &mut Session<Device>| {
        model.prefill(&device, session, 1, &tokens[..20]).unwrap();
        feed(session, 20..32);
        bits(
            model.forward(&device, session, &[Sequence { slot: 1, tokens: &tokens[32..33] }], LogitRows::Last).unwrap(),
        )
    };
    let again = after(&mut session);
    assert!(again == after(&mut model.session(&device, settings).unwrap()));
}
