//! The fast ways against the plain one: on random programs of a few warps both find the same.

use super::*;

const WARPS: usize = 3;
const BYTES: usize = 1024;

struct Random(u64);

impl Random {
    fn below(&mut self, n: u32) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % u64::from(n)) as u32
    }
}

/// One instruction of a warp.
#[derive(Debug)]
enum Step {
    /// All lanes, one behind the other from a byte offset.
    Run(Access, u32),
    /// All lanes read one place.
    Same(u32),
    /// Each of some lanes at an offset of its own.
    Lanes(Access, u32, [u32; 32]),
    /// One lane's access to `.2` bytes, in the plain way on both sides.
    Plain(Access, u32, u32, u32),
    Copy(u32, u32),
    Finish(u32, u32),
    SyncWarp,
    SyncBlock,
}

fn step<const N: usize>(random: &mut Random) -> Step {
    let size = 4 * N as u32;
    let kind = [Access::Read, Access::Write][random.below(2) as usize];
    let place = |random: &mut Random| random.below(BYTES as u32 / size) * size;
    match random.below(12) {
        0..3 => Step::Run(kind, random.below((BYTES as u32 - 32 * size) / size + 1) * size),
        3 => Step::Same(place(random)),
        4 => Step::Lanes(kind, random.below(u32::MAX), std::array::from_fn(|_| place(random))),
        5 => {
            // Mostly lanes of one instruction do not meet.
            let first = random.below((BYTES as u32 - 32 * size) / size + 1) * size;
            let turn = random.below(32);
            let lanes = std::array::from_fn(|lane| first + (lane as u32 ^ turn) * size);
            Step::Lanes(kind, random.below(2).wrapping_neg() | random.below(u32::MAX), lanes)
        }
        6 => {
            let kinds = [Access::Read, Access::Write, Access::Atomic, Access::AtomicRead];
            let bytes = [1, 2, 4][random.below(3) as usize];
            let word = random.below(BYTES as u32 / 4) * 4;
            Step::Plain(kinds[random.below(4) as usize], random.below(32), word, bytes)
        }
        7 => Step::Copy(random.below(32), place(random)),
        8 => Step::Finish(random.below(32), place(random)),
        9 => Step::SyncWarp,
        _ => Step::SyncBlock,
    }
}

/// The plain way: every lane is checked before any is marked.
fn plainly(shadow: &mut Shadow, kind: Access, warp: u32, lanes: &[(u32, u32)], size: u32) -> Result<(), Problem> {
    for &(lane, offset) in lanes {
        shadow.check(kind, Agent { warp, lane }, offset, size)?;
    }
    lanes.iter().for_each(|&(lane, offset)| shadow.record(kind, Agent { warp, lane }, offset, size));
    Ok(())
}

/// The fast way if it says yes, else the plain one, as instructions do it.
fn quickly<const N: usize>(shadow: &mut Shadow, warp: u32, step: &Step, lanes: &[(u32, u32)]) -> Result<(), Problem> {
    let executing = lanes.iter().map(|&(lane, _)| lane as usize);
    let (kind, ordered) = match step {
        Step::Run(kind, offset) => (*kind, shadow.access_run::<N>(*kind == Access::Write, warp, *offset as usize / 4)),
        Step::Same(offset) => (Access::Read, shadow.read_same::<N>(warp, *offset as usize / 4)),
        Step::Lanes(Access::Write, _, offsets) => (Access::Write, shadow.write_lanes::<N>(warp, executing, offsets)),
        Step::Lanes(kind, _, offsets) => (*kind, shadow.read_lanes::<N>(warp, executing, offsets)),
        _ => unreachable!("only accesses of a warp"),
    };
    if ordered { Ok(()) } else { plainly(shadow, kind, warp, lanes, 4 * N as u32) }
}

fn lanes_of<const N: usize>(step: &Step) -> Vec<(u32, u32)> {
    match step {
        Step::Run(_, offset) => (0..32).map(|lane| (lane, offset + lane * 4 * N as u32)).collect(),
        Step::Same(offset) => (0..32).map(|lane| (lane, *offset)).collect(),
        Step::Lanes(_, mask, offsets) => {
            (0..32).filter(|lane| mask >> lane & 1 == 1).map(|lane| (lane, offsets[lane as usize])).collect()
        }
        _ => Vec::new(),
    }
}

/// Runs a step on both; the results must agree.
fn compare<const N: usize>(quick: &mut Shadow, plain: &mut Shadow, warp: u32, step: &Step) -> bool {
    let size = 4 * N as u32;
    let (ours, theirs) = match *step {
        Step::Plain(kind, lane, offset, bytes) => {
            (plainly(quick, kind, warp, &[(lane, offset)], bytes), plainly(plain, kind, warp, &[(lane, offset)], bytes))
        }
        Step::Copy(lane, offset) => {
            let agent = Agent { warp, lane };
            let (limit, first) = (quick.limit(warp), offset as usize / 4);
            let ours = if quick.issue_copy_to::<N>(agent, limit, first) {
                Ok(())
            } else {
                quick.check(Access::Write, agent, offset, size).map(|()| quick.issue_copy(offset, size))
            };
            let theirs = plain.check(Access::Write, agent, offset, size).map(|()| plain.issue_copy(offset, size));
            (ours, theirs)
        }
        Step::Finish(lane, offset) => {
            // The plain way to finish a copy is a write.
            let agent = Agent { warp, lane };
            quick.finish_copy_to::<N>(agent, offset as usize / 4);
            plain.record(Access::Write, agent, offset, size);
            for word in offset as usize / 4..(offset + size) as usize / 4 {
                plain.state[word] &= !PENDING;
            }
            (Ok(()), Ok(()))
        }
        Step::SyncWarp => {
            quick.clocks.step(warp as usize);
            plain.clocks.step(warp as usize);
            (Ok(()), Ok(()))
        }
        Step::SyncBlock => {
            quick.meet_all();
            plain.meet_all();
            (Ok(()), Ok(()))
        }
        _ => {
            let lanes = lanes_of::<N>(step);
            (quickly::<N>(quick, warp, step, &lanes), plainly(plain, kind_of(step), warp, &lanes, size))
        }
    };
    assert_eq!(ours, theirs, "{step:?} of warp {warp}");
    ours.is_ok()
}

fn kind_of(step: &Step) -> Access {
    match step {
        Step::Run(kind, _) | Step::Lanes(kind, ..) => *kind,
        _ => Access::Read,
    }
}

/// Returns how many steps were without and with a finding.
fn programs<const N: usize>(seed: u64) -> [usize; 2] {
    let (mut random, mut counts) = (Random(seed), [0; 2]);
    for _ in 0..3000 {
        let (mut quick, mut plain) = (Shadow::default(), Shadow::default());
        for shadow in [&mut quick, &mut plain] {
            shadow.reset(WARPS, BYTES);
            if random.0 & 1 == 0 {
                // Half of the programs start with written memory.
                for lane in 0..32 {
                    shadow.record(Access::Write, Agent { warp: 0, lane }, lane * 32, 32);
                }
                shadow.meet_all();
            }
        }
        for _ in 0..40 {
            let warp = random.below(WARPS as u32);
            let step = step::<N>(&mut random);
            let good = compare::<N>(&mut quick, &mut plain, warp, &step);
            counts[usize::from(!good)] += 1;
            if !good {
                break;
            }
            let marks =
                |s: &Shadow| (s.written.clone(), s.state.clone(), s.granules.clone(), s.granules_before.clone());
            assert_eq!(marks(&quick), marks(&plain), "{step:?} of warp {warp}");
        }
    }
    counts
}

#[test]
fn fast_ways_match_the_plain_one_on_random_programs() {
    for counts in [programs::<1>(1), programs::<2>(2), programs::<4>(3)] {
        assert!(counts.iter().all(|&n| n > 1000), "both outcomes are common: {counts:?}");
    }
}

/// Reads `N` words of which number `k` is as it must not be: not written, written by another warp since, or pending.
fn every_word_counts<const N: usize>() {
    for (k, fault) in (0..N).flat_map(|k| (0..4).map(move |fault| (k, fault))) {
        let (mut shadow, at) = (Shadow::default(), 4 * k as u32);
        shadow.reset(WARPS, BYTES);
        for word in (0..N).filter(|&word| fault != 0 || word != k) {
            shadow.record(Access::Write, Agent { warp: 0, lane: 0 }, 4 * word as u32, 4);
        }
        shadow.meet_all();
        match fault {
            1 => shadow.record(Access::Write, Agent { warp: 2, lane: 0 }, at, 4),
            2 => shadow.issue_copy(at, 4),
            _ => {}
        }
        assert_eq!(shadow.read_same::<N>(1, 0), fault == 3, "word {k} of {N}, fault {fault}");
        assert_eq!(shadow.read_lanes::<N>(1, [5].into_iter(), &[0; 32]), fault == 3, "word {k} of {N}, fault {fault}");
    }
}

#[test]
fn fast_reads_match_the_state_of_every_word() {
    every_word_counts::<1>();
    every_word_counts::<2>();
    every_word_counts::<4>();
}
