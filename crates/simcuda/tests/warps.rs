//! Operations among lanes, divergence, barriers, and programs that need every warp and block to make progress.

mod device;
use device::{Device, Random, ptx, shape};
use simcuda::machine::{Arch, LaunchConfig};

/// Runs a body that computes `%d` from `%a` (word number `%i` of the input), for all threads of a launch.
fn map(device: &Device, body: &str, config: &LaunchConfig, input: &[u32]) -> Vec<u32> {
    let text = ptx(&format!(
        ".visible .global .align 4 .b32 counter[16];
        .visible .entry k(.param .u64 pin, .param .u64 pout) {{
            .reg .b64 %in, %out, %x, %y, %g; .reg .b32 %a, %b, %c, %d, %e, %i, %n, %t, %l, %w; .reg .pred %p, %q;
            .shared .align 16 .b8 buf[4096]; .shared .align 8 .b64 bar[4];
            ld.param.u64 %in, [pin]; ld.param.u64 %out, [pout]; mov.u64 %g, counter;
            mov.u32 %t, %tid.x; mov.u32 %l, %laneid; shr.u32 %w, %t, 5; mov.u32 %c, %ctaid.x; mov.u32 %n, %ntid.x;
            mad.lo.u32 %i, %c, %n, %t; mul.wide.u32 %x, %i, 4; add.u64 %y, %in, %x; ld.global.u32 %a, [%y];
            mov.u32 %d, 0; {body}
            add.u64 %y, %out, %x; st.global.u32 [%y], %d; ret; }}"
    ));
    let f = device.kernel(&text);
    let (a, d) = (device.words(input), device.words(&vec![0; input.len()]));
    device.run(&f, config, &[a, d]).unwrap_or_else(|fault| panic!("{fault}\n{body}"));
    device.read_words(d, input.len())
}

fn warp(body: &str, input: &[u32]) -> Vec<u32> {
    map(&Device::new(), body, &shape(1, input.len() as u32), input)
}

fn random_words(count: usize) -> Vec<u32> {
    let mut random = Random(9);
    (0..count).map(|_| random.next() as u32).collect()
}

#[test]
fn shuffles_match_their_definition_in_segments() {
    let a = random_words(32);
    for (width, clamp_up) in [(32usize, 0u32), (16, 0x1000), (8, 0x1800)] {
        let clamp = 31 | (32 - width as u32) << 8;
        for by in [0usize, 1, 2, 3, 4, 7, 8, 15, 16, 31] {
            let base = |lane: usize| lane / width * width;
            let down = warp(&format!("shfl.sync.down.b32 %d, %a, {by}, {clamp}, -1;"), &a);
            let up = warp(&format!("shfl.sync.up.b32 %d, %a, {by}, {clamp_up}, -1;"), &a);
            let fly = warp(&format!("shfl.sync.bfly.b32 %d, %a, {by}, {clamp}, -1;"), &a);
            let idx = warp(&format!("shfl.sync.idx.b32 %d|%p, %a, {by}, {clamp}, -1;"), &a);
            for lane in 0..32 {
                let end = base(lane) + width;
                assert_eq!(down[lane], a[if lane + by < end { lane + by } else { lane }], "down {by} of {width}");
                assert_eq!(up[lane], a[if lane >= base(lane) + by { lane - by } else { lane }], "up {by} of {width}");
                assert_eq!(fly[lane], a[if lane ^ by < end { lane ^ by } else { lane }], "bfly {by} of {width}");
                assert_eq!(idx[lane], a[base(lane) + by % width], "idx {by} of {width}");
            }
        }
    }
}

#[test]
fn votes_matches_and_reductions_match_rust() {
    let a: Vec<u32> = random_words(32).iter().map(|x| x % 5).collect();
    let ballot = a.iter().enumerate().fold(0u32, |m, (l, &x)| m | u32::from(x > 2) << l);
    assert_eq!(warp("setp.gt.u32 %p, %a, 2; vote.sync.ballot.b32 %d, %p, -1;", &a), [ballot; 32]);
    assert_eq!(warp("setp.gt.u32 %p, %a, 2; vote.sync.any.pred %q, !%p, -1; selp.u32 %d, 1, 0, %q;", &a), [1; 32]);
    assert_eq!(warp("setp.lt.u32 %p, %a, 9; vote.sync.all.pred %q, %p, -1; selp.u32 %d, 1, 0, %q;", &a), [1; 32]);
    assert_eq!(warp("setp.gt.u32 %p, %a, 2; vote.sync.uni.pred %q, %p, -1; selp.u32 %d, 1, 0, %q;", &a), [0; 32]);
    let same: Vec<u32> =
        a.iter().map(|x| a.iter().enumerate().fold(0, |m, (l, y)| m | u32::from(x == y) << l)).collect();
    assert_eq!(warp("match.any.sync.b32 %d, %a, -1;", &a), same);
    assert_eq!(warp("match.all.sync.b32 %d|%p, %a, -1;", &[7; 32]), [u32::MAX; 32]);
    assert_eq!(warp("match.all.sync.b32 %d|%p, %a, -1;", &a), [0; 32]);
    let words = random_words(32);
    let fold = |f: fn(u32, u32) -> u32| words.iter().copied().reduce(f).expect("32");
    assert_eq!(warp("redux.sync.add.u32 %d, %a, -1;", &words), [fold(u32::wrapping_add); 32]);
    assert_eq!(warp("redux.sync.min.s32 %d, %a, -1;", &words), [fold(|x, y| (x as i32).min(y as i32) as u32); 32]);
    assert_eq!(warp("redux.sync.max.u32 %d, %a, -1;", &words), [fold(u32::max); 32]);
    assert_eq!(warp("redux.sync.xor.b32 %d, %a, -1;", &words), [fold(|x, y| x ^ y); 32]);
    assert_eq!(warp("setp.lt.u32 %p, %l, 5; @%p activemask.b32 %d;", &words)[..6], [31, 31, 31, 31, 31, 0]);
    let elected = warp("elect.sync %d|%p, 0xffffff00; selp.u32 %d, 1, 0, %p;", &words);
    assert_eq!(elected.iter().sum::<u32>(), 1);
    assert_eq!(elected[8], 1);
}

#[test]
fn divergent_lanes_meet_again_and_keep_their_values() {
    // Each lane loops its own number of times; then all shuffle together.
    let a: Vec<u32> = (0..64).map(|i| i * 7 % 13).collect();
    let body =
        "mov.u32 %e, %a; LOOP: setp.eq.u32 %p, %e, 0; @%p bra OUT; add.u32 %d, %d, %e; sub.u32 %e, %e, 1; bra LOOP;
                OUT: shfl.sync.bfly.b32 %e, %d, 1, 31, -1; mad.lo.u32 %d, %d, 1000, %e;";
    let triangle = |x: u32| x * (x + 1) / 2;
    let expected: Vec<u32> = (0..64).map(|i: usize| triangle(a[i]) * 1000 + triangle(a[i ^ 1])).collect();
    assert_eq!(map(&Device::new(), body, &shape(1, 64), &a), expected);
    // A nest of branches and a table of targets.
    let table = "and.b32 %e, %a, 3; ts: .branchtargets B0, B1, B2, B3; brx.idx %e, ts;
                 B0: mov.u32 %d, 10; bra END; B1: mov.u32 %d, 11; bra END; B2: mov.u32 %d, 12; bra END; B3: add.u32 %d, %a, 1; END:";
    let expected: Vec<u32> = a.iter().map(|&x| if x & 3 == 3 { x + 1 } else { 10 + (x & 3) }).collect();
    assert_eq!(map(&Device::new(), table, &shape(1, 64), &a), expected);
}

#[test]
fn calls_match_their_inlined_bodies() {
    let device = Device::new();
    let text = ptx(
        ".func (.param .b32 r) twice(.param .b32 x) { .reg .b32 %v; ld.param.b32 %v, [x]; add.u32 %v, %v, %v; st.param.b32 [r], %v; ret; }
         .func (.param .b32 r) pick(.param .b32 x) {
            .reg .b32 %v; .reg .pred %p; ld.param.b32 %v, [x]; setp.gt.u32 %p, %v, 10; @%p bra BIG;
            { .param .b32 o; .param .b32 i; st.param.b32 [i], %v; call (o), twice, (i); ld.param.b32 %v, [o]; }
            st.param.b32 [r], %v; ret; BIG: st.param.b32 [r], 99; ret; }
         .entry k(.param .u64 p) {
            .reg .b64 %d<3>; .reg .b32 %r<4>; ld.param.u64 %d1, [p]; mov.u32 %r1, %tid.x; mad.wide.u32 %d1, %r1, 4, %d1;
            { .param .b32 o; .param .b32 i; st.param.b32 [i], %r1; call.uni (o), pick, (i); ld.param.b32 %r2, [o]; }
            st.global.u32 [%d1], %r2; ret; }",
    );
    let out = device.words(&[0; 32]);
    device.run(&device.kernel(&text), &shape(1, 32), &[out]).unwrap_or_else(|f| panic!("{f}"));
    let expected: Vec<u32> = (0..32).map(|t| if t > 10 { 99 } else { 2 * t }).collect();
    assert_eq!(device.read_words(out, 32), expected);
}

#[test]
fn reducing_barriers_match_counts() {
    let a: Vec<u32> = random_words(96);
    let odd = a.iter().filter(|&x| x & 1 == 1).count() as u32;
    let parity = "and.b32 %e, %a, 1; setp.eq.u32 %p, %e, 1;";
    assert_eq!(map(&Device::new(), &format!("{parity} bar.red.popc.u32 %d, 0, %p;"), &shape(1, 96), &a), [odd; 96]);
    assert_eq!(
        map(&Device::new(), &format!("{parity} bar.red.or.pred %q, 0, %p; selp.u32 %d, 1, 0, %q;"), &shape(1, 96), &a),
        [1; 96]
    );
    assert_eq!(
        map(&Device::new(), &format!("{parity} bar.red.and.pred %q, 0, %p; selp.u32 %d, 1, 0, %q;"), &shape(1, 96), &a),
        [0; 96]
    );
}

#[test]
fn a_spin_lock_between_lanes_of_a_warp_makes_progress() {
    // The holder has the higher instruction: lowest-first alone would let the others spin for ever.
    let body = "SPIN: atom.global.cas.b32 %e, [%g], 0, 1; setp.ne.u32 %p, %e, 0; @%p bra SPIN;
                ld.volatile.global.u32 %d, [%g+4]; add.u32 %d, %d, 1; st.volatile.global.u32 [%g+4], %d; membar.gl;
                atom.global.exch.b32 %e, [%g], 0;";
    for blocks in [1, 8] {
        let mut tickets = map(&Device::new(), body, &shape(blocks, 64), &vec![0; 64 * blocks as usize]);
        tickets.sort_unstable();
        assert_eq!(tickets, (1..=64 * blocks).collect::<Vec<_>>());
    }
}

#[test]
fn a_reverse_chain_of_waiting_blocks_finishes() {
    // Block c waits until c + 1 has published; the last block starts. Nothing but fair turns ends this.
    let body = "mov.u32 %e, %nctaid.x; sub.u32 %e, %e, 1; setp.eq.u32 %p, %c, %e; @%p bra PUBLISH; sub.u32 %e, %e, %c;
                WAIT: ld.acquire.gpu.global.u32 %b, [%g]; setp.lt.u32 %q, %b, %e; @%q bra WAIT;
                PUBLISH: mov.u32 %e, 1; atom.release.gpu.global.add.u32 %d, [%g], %e;";
    let result = map(&Device::new(), body, &shape(40, 1), &[0; 40]);
    assert_eq!(result, (0..40).rev().collect::<Vec<u32>>());
}

#[test]
fn warp_specialised_pipelines_match_a_plain_sum() {
    // Warp 0 fills two stages by cp.async.bulk, warp 1 sums them: full and empty mbarriers per stage, ten rounds.
    let mut device = Device::of(Arch::Sm90);
    let body = "setp.ne.u32 %p, %t, 0; @%p bra READY; mov.u32 %b, bar;
        mbarrier.init.shared.b64 [%b], 1; mbarrier.init.shared.b64 [%b+8], 1;
        mbarrier.init.shared.b64 [%b+16], 32; mbarrier.init.shared.b64 [%b+24], 32;
        READY: bar.sync 0; mov.u32 %i, 0; setp.ge.u32 %p, %t, 32; @%p bra CONSUME;
        setp.ne.u32 %p, %t, 0; @%p bra DONE;
        PRODUCE: and.b32 %e, %i, 1; shl.b32 %b, %e, 3; mov.u32 %c, bar; add.u32 %b, %b, %c;
        setp.lt.u32 %p, %i, 2; @%p bra FREE; shr.u32 %c, %i, 1; sub.u32 %c, %c, 1; and.b32 %c, %c, 1;
        EMPTY: mbarrier.try_wait.parity.shared::cta.b64 %q, [%b+16], %c; @!%q bra EMPTY;
        FREE: mbarrier.arrive.expect_tx.shared.b64 _, [%b], 128; mov.u32 %c, buf; mad.lo.u32 %c, %e, 128, %c;
        mad.wide.u32 %y, %i, 128, %in;
        cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%c], [%y], 128, [%b];
        add.u32 %i, %i, 1; setp.lt.u32 %p, %i, 10; @%p bra PRODUCE; bra DONE;
        CONSUME: and.b32 %e, %i, 1; shl.b32 %b, %e, 3; mov.u32 %c, bar; add.u32 %b, %b, %c; shr.u32 %c, %i, 1; and.b32 %c, %c, 1;
        FULL: mbarrier.try_wait.parity.shared::cta.b64 %q, [%b], %c; @!%q bra FULL;
        mov.u32 %c, buf; mad.lo.u32 %c, %e, 128, %c; mad.lo.u32 %c, %l, 4, %c; ld.shared.u32 %e, [%c]; add.u32 %d, %d, %e;
        mbarrier.arrive.shared.b64 _, [%b+16]; add.u32 %i, %i, 1; setp.lt.u32 %p, %i, 10; @%p bra CONSUME; DONE:";
    let a = random_words(320);
    for seed in 0..4 {
        device.options.seed = seed;
        let result = map(&device, body, &shape(1, 64), &a);
        for lane in 0..32 {
            let sum = (0..10).fold(0u32, |s, round| s.wrapping_add(a[32 * round + lane]));
            assert_eq!(result[32 + lane], sum, "seed {seed} lane {lane}");
        }
    }
}

#[test]
fn mbarriers_that_copies_arrive_at_complete_where_arrivals_are_counted_and_where_they_are_added() {
    // Of 32 expected arrivals the copies make all; or each copy first adds one for itself and the lanes make theirs.
    for (arrive, own) in
        [("cp.async.mbarrier.arrive.noinc", ""), ("cp.async.mbarrier.arrive", "mbarrier.arrive.shared.b64 _, [%b];")]
    {
        let body = format!(
            "mov.u32 %b, bar; mov.u32 %c, buf; mad.lo.u32 %e, %t, 4, %c;
            setp.ne.u32 %p, %t, 0; @%p bra READY; mbarrier.init.shared.b64 [%b], 32;
            READY: bar.sync 0; cp.async.ca.shared.global [%e], [%y], 4; {arrive}.shared.b64 [%b]; {own}
            mov.u32 %i, 0;
            WAIT: add.u32 %i, %i, 1; mbarrier.test_wait.parity.shared.b64 %q, [%b], 0;
            @%q bra THERE; setp.lt.u32 %p, %i, 9999; @%p bra WAIT; bra NONE;
            THERE: xor.b32 %e, %t, 1; mad.lo.u32 %e, %e, 4, %c; ld.shared.u32 %d, [%e]; NONE:"
        );
        let a = random_words(32);
        for seed in 0..4 {
            let mut device = Device::new();
            device.options.seed = seed;
            let result = map(&device, &body, &shape(1, 32), &a);
            let expected: Vec<u32> = (0..32).map(|lane: usize| a[lane ^ 1]).collect();
            assert_eq!(result, expected, "{arrive}, seed {seed}");
        }
    }
}

#[test]
fn cluster_reductions_through_distributed_shared_memory_match_a_sum() {
    // Every block stores its number of the input; each then adds up all blocks' through mapa.
    let device = Device::of(Arch::Sm90);
    let body = "mov.u32 %b, buf; mad.lo.u32 %b, %t, 4, %b; st.shared.u32 [%b], %a;
        barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;
        mov.u32 %e, %cluster_nctarank; mov.u32 %i, 0;
        NEXT: mapa.shared::cluster.u32 %c, %b, %i; ld.shared::cluster.u32 %c, [%c]; add.u32 %d, %d, %c;
        add.u32 %i, %i, 1; setp.lt.u32 %p, %i, %e; @%p bra NEXT;
        barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;";
    let a = random_words(8 * 64);
    let config = LaunchConfig { cluster: [4, 1, 1], ..shape(8, 64) };
    let result = map(&device, body, &config, &a);
    for (index, &sum) in result.iter().enumerate() {
        let (cluster, thread) = (index / 256, index % 64);
        let expected = (0..4).fold(0u32, |s, block| s.wrapping_add(a[cluster * 256 + block * 64 + thread]));
        assert_eq!(sum, expected, "thread {index}");
    }
}

#[test]
fn atomics_of_every_width_match_their_total() {
    let device = Device::new();
    let totals = |op: &str, init: u32, bytes: usize| {
        let text = ptx(&format!(
            ".entry k(.param .u64 p) {{ .reg .b64 %p, %v; .reg .b32 %t, %n, %c; .reg .f32 %f; .reg .f64 %g; .reg .b16 %h;
             ld.param.u64 %p, [p]; mov.u32 %t, %tid.x; mov.u32 %c, %ctaid.x; mov.u32 %n, %ntid.x; mad.lo.u32 %t, %c, %n, %t;
             cvt.u64.u32 %v, %t; cvt.rn.f32.u32 %f, %t; cvt.rn.f64.u32 %g, %t; mov.b16 %h, 0x3c00; {op} ret; }}"
        ));
        let p = device.words(&[init, 0]);
        device.run(&device.kernel(&text), &shape(8, 128), &[p]).unwrap_or_else(|f| panic!("{op}: {f}"));
        let got = device.download(p, bytes);
        got.iter().rev().fold(0u64, |v, &b| v << 8 | u64::from(b))
    };
    let sum: u64 = (0..1024).sum();
    assert_eq!(totals("red.global.add.u32 [%p], %t;", 0, 4), sum);
    assert_eq!(totals("red.global.add.u64 [%p], %v;", 0, 8), sum);
    assert_eq!(totals("red.global.max.s32 [%p], %t;", 5, 4), 1023);
    assert_eq!(totals("red.global.min.u32 [%p], %t;", 5, 4), 0);
    assert_eq!(totals("red.global.or.b32 [%p], %t;", 0, 4), 1023);
    assert_eq!(totals("red.global.and.b32 [%p], %t;", u32::MAX, 4), 0);
    assert_eq!(totals("red.global.inc.u32 [%p], 1000;", 0, 4), 1024 % 1001);
    // 1024 steps down through 1001 values from 7: to 0 and around.
    assert_eq!(totals("red.global.dec.u32 [%p], 1000;", 7, 4), (7 + 1001 * 2 - 1024) % 1001);
    // Sums of integers below 2^24 are exact in f32 in any order.
    assert_eq!(f32::from_bits(totals("red.global.add.f32 [%p], %f;", 0, 4) as u32), sum as f32);
    assert_eq!(f64::from_bits(totals("atom.global.add.f64 %g, [%p], %g;", 0, 8)), sum as f64);
    // 1024 ones in f16 are exact.
    assert_eq!(
        totals("atom.global.add.noftz.f16 %h, [%p], %h;", 0, 2),
        u64::from(half::f16::from_f32(1024.0).to_bits())
    );
}

#[test]
fn the_same_holds_without_avx2() {
    device::rerun_portable("the_same_holds_without_avx2");
}
