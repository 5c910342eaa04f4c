//! Closed forms and the anchors of the schedules.

use moray_bpipe::OpKind;
use moray_bpipe::cluster::{Cluster, Link, Placement};
use moray_bpipe::equations::Replica;
use moray_bpipe::memory::smallest_cap;
use moray_bpipe::pipeline::{Pipeline, StageCost};
use moray_bpipe::schedule::one_f_one_b;
use moray_bpipe::{Error, Program, Schedule, Simulation, simulate};
use std::time::Instant;

const BPIPE: Schedule = Schedule::BPipe { cap: None, lookahead: None };

/// A stage whose three parts take these times, with one byte of activations per ns of a 1 GB/s link.
pub fn cost(forward_ns: u64, input_grad_ns: u64, weight_grad_ns: u64, transfer_ns: u64) -> StageCost {
    StageCost { forward_ns, input_grad_ns, weight_grad_ns, activation_bytes: transfer_ns, static_bytes: 0 }
}

/// Equal stages of cost 1000 + 1000 ns whose transfers take `transfer_ns`.
fn unit(stages: u32, micro_batches: u32, transfer_ns: u64) -> Pipeline {
    let link = Link::new(1.0, 0.0).expect("a valid link");
    let mut pipeline = Pipeline::uniform(stages, micro_batches, cost(1000, 500, 500, transfer_ns));
    pipeline.cluster = Cluster { intra: link, inter: link, ..Cluster::FREE };
    pipeline
}

fn run(pipeline: &Pipeline, schedule: Schedule) -> Simulation {
    let program = schedule.program(pipeline).expect("a valid schedule");
    simulate(pipeline, &program).expect("a schedule that runs")
}

#[test]
fn makespan_and_bubble_match_closed_form_at_unit_cost() {
    for (p, m) in [(2, 1), (2, 7), (3, 2), (4, 4), (6, 4), (8, 3), (8, 128), (13, 40)] {
        for schedule in [Schedule::OneFOneB, Schedule::GPipe] {
            let got = run(&unit(p, m, 0), schedule);
            let expected = 1000 * (2 * u64::from(m) + 2 * u64::from(p - 1));
            assert_eq!(got.makespan_ns, expected, "{schedule:?} p {p} m {m}");
        }
    }
    let four = run(&unit(4, 4, 0), Schedule::OneFOneB);
    assert_eq!(four.makespan_ns, 14_000);
    assert_eq!(format!("{:.2}", 100.0 * four.bubble()), "42.86");
}

#[test]
fn simulation_matches_equations_1_and_3_on_uniform_stages() {
    let (flops, peak) = (3.0e9, 5.0e13);
    for (p, batch, b) in [(2, 4, 1), (4, 12, 3), (8, 128, 2), (7, 35, 5), (16, 64, 64)] {
        let replica = Replica::new(batch, p).expect("valid");
        let m = replica.micro_batches(b).expect("divisible");
        let stage = cost(123_457, 100_003, 131_101, 0);
        let stage_ns = stage.forward_ns + stage.backward_ns();
        let got = run(&Pipeline::uniform(p, m, stage), Schedule::OneFOneB);
        // Equation 1 in integers: nothing to round.
        assert_eq!(got.makespan_ns, u64::from(m + p - 1) * stage_ns);
        let stage_us = stage_ns as f64 / 1e3;
        let stage_mfu = replica.stage_mfu(b, stage_us, flops, peak).expect("valid");
        let estimated = replica.mfu(b, stage_mfu).expect("valid");
        let simulated = got.mfu(flops * f64::from(batch), peak);
        // Fewer than 16 roundings on each side, of at most half an ulp each.
        assert!((simulated / estimated - 1.0).abs() <= 16.0 * f64::EPSILON, "{simulated} {estimated}");
    }
}

#[test]
fn makespan_matches_closed_form_when_interleaved() {
    for (p, m, chunks) in [(2, 2, 2), (4, 8, 2), (4, 4, 5), (8, 64, 4), (3, 9, 3)] {
        let part = 1200_u64;
        let whole = cost(part * u64::from(chunks), part * u64::from(chunks), part * u64::from(chunks), 0);
        let got = run(&Pipeline::uniform(p, m, whole), Schedule::Interleaved { chunks });
        // m·v chunk passes and a bubble of p − 1 of them instead of p − 1 whole stages.
        assert_eq!(got.makespan_ns, 3 * part * u64::from(m * chunks + p - 1), "p {p} m {m} v {chunks}");
    }
}

#[test]
fn warmup_without_clamp_deadlocks_with_fewer_micro_batches_than_stages() {
    let pipeline = unit(6, 4, 0);
    let unclamped = Program::plain((0..6).map(|x| one_f_one_b::order(4, 6 - x - 1)).collect());
    let error = simulate(&pipeline, &unclamped).expect_err("a deadlock");
    assert!(matches!(error, Error::Deadlock { .. }), "{error}");
    assert_eq!(run(&pipeline, Schedule::OneFOneB).makespan_ns, 1000 * (2 * 4 + 2 * 5));
}

#[test]
fn peaks_match_published_counts_of_every_schedule() {
    for (p, m) in [(4, 16), (8, 32), (7, 21), (8, 4 * 8), (5, 3 * 5)] {
        let pipeline = unit(p, m, 10);
        let peaks = |schedule| -> Vec<f64> {
            run(&pipeline, schedule).stages.iter().map(|stage| stage.peak_micro_batches).collect()
        };
        assert_eq!(peaks(Schedule::GPipe), vec![f64::from(m); p as usize]);
        let plain: Vec<f64> = (0..p).map(|x| f64::from((p - x).min(m))).collect();
        assert_eq!(peaks(Schedule::OneFOneB), plain);
        // The warm-up of 2(p − x − 1) + (v − 1)p chunks, and one more in the steady state.
        let chunks: Vec<f64> = (0..p).map(|x| f64::from(2 * (p - x - 1) + p + 1) / 2.0).collect();
        assert_eq!(peaks(Schedule::Interleaved { chunks: 2 }), chunks);
    }
}

#[test]
fn v_half_peak_matches_half_of_the_pipeline() {
    for p in 2..=33 {
        for (forward, grad, weight) in [(1000, 1000, 1000), (500, 900, 700)] {
            let pipeline = Pipeline::uniform(p, 4 * p, cost(2 * forward, 2 * grad, 2 * weight, 0));
            let got = run(&pipeline, Schedule::VHalf);
            assert_eq!(got.peak_micro_batches(), f64::from((p + 2) / 2), "p {p}");
        }
    }
}

#[test]
fn bpipe_balances_eight_stages_as_published() {
    let got = run(&unit(8, 64, 0), BPIPE);
    // Once transfers are over: stage 0 keeps 5 of its 8, stage 7 its own and the 3 of stage 0.
    let settled = |stage: usize| got.memory[stage].iter().map(|sample| sample.units).max();
    assert_eq!((settled(0), settled(7)), (Some(5), Some(4)));
    assert_eq!(smallest_cap(8, 64), 5);
    let evictors: Vec<bool> = got.stages.iter().map(|stage| stage.evictions > 0).collect();
    assert_eq!(evictors, [true, true, true, false, false, false, false, false]);
    let plain = run(&unit(8, 64, 0), Schedule::OneFOneB);
    assert_eq!(got.makespan_ns, plain.makespan_ns, "free transfers cost nothing");
}

#[test]
fn bpipe_stall_is_zero_exactly_while_transfers_hide() {
    let plain = run(&unit(8, 64, 0), Schedule::OneFOneB).makespan_ns;
    let at = |transfer_ns| run(&unit(8, 64, transfer_ns), BPIPE);
    // A forward and a backward of 1000 ns each are the window of one eviction and one load.
    for hidden in [1, 250, 500, 1000] {
        let got = at(hidden);
        assert_eq!((got.stall_ns(), got.makespan_ns), (0, plain), "transfer {hidden} ns");
    }
    let mut last = plain;
    for exposed in [2500, 5000, 10_000] {
        let got = at(exposed);
        assert!(got.stall_ns() > 0 && got.makespan_ns > last, "transfer {exposed} ns: {}", got.makespan_ns);
        last = got.makespan_ns;
    }
}

#[test]
fn bpipe_links_bound_makespan_when_transfers_dominate() {
    // Stage 0 of 4 keeps 4 at most and may hold 3: it must swap one in three micro-batches, each once out and once in.
    let transfer_ns = 50_000;
    let mut pipeline = unit(4, 48, transfer_ns);
    pipeline.cluster.half_duplex = true;
    let got = run(&pipeline, BPIPE);
    let moved = got.spans.iter().filter(|span| span.op.kind.is_transfer()).count() as u64;
    assert_eq!(u64::from(got.stages[0].evictions) * 2, moved);
    assert!(got.stages[0].evictions >= 48 / 3 - 1, "{} evictions", got.stages[0].evictions);
    assert!(got.makespan_ns >= moved * transfer_ns);
}

#[test]
fn pair_adjacent_placement_keeps_pairs_in_one_node() {
    for p in [2, 4, 7, 8, 16] {
        let cluster = Cluster { placement: Placement::PairAdjacent, node_stages: Some(2), ..Cluster::FREE };
        for x in 0..p / 2 {
            assert_eq!(cluster.node(p, x), cluster.node(p, p - 1 - x));
        }
        let mut full: Vec<u32> = (0..p).map(|x| cluster.node(p, x)).collect();
        full.sort_unstable();
        assert!(full.chunk_by(|a, b| a == b).all(|node| node.len() <= 2), "{full:?}");
    }
    let mut pipeline = unit(8, 32, 4000);
    pipeline.cluster.node_stages = Some(4);
    pipeline.cluster.intra = Link::new(20.0, 0.0).expect("valid");
    let sequential = run(&pipeline, BPIPE);
    pipeline.cluster.placement = Placement::PairAdjacent;
    let adjacent = run(&pipeline, BPIPE);
    assert!(adjacent.makespan_ns < sequential.makespan_ns && adjacent.stall_ns() == 0);
}

#[test]
fn head_and_embedding_lengthen_their_own_stages() {
    let mut pipeline = unit(4, 16, 0);
    pipeline.head = cost(300, 300, 300, 70);
    pipeline.embedding = cost(40, 0, 40, 9);
    for schedule in [Schedule::OneFOneB, Schedule::Interleaved { chunks: 2 }, Schedule::VHalf] {
        let got = run(&pipeline, schedule);
        let head_stage = if schedule == Schedule::VHalf { 0 } else { 3 };
        let busy = |stage: usize| got.stages[stage].busy_ns;
        let (head, embedding) = (16 * 900, 16 * 80);
        for stage in 0..4 {
            let extra = if stage == 0 { embedding } else { 0 } + if stage == head_stage { head } else { 0 };
            assert_eq!(busy(stage), 16 * 2000 + extra, "{schedule:?} stage {stage}");
        }
    }
    // The last stage paces 1F1B: its work, the way to it and the way back.
    let got = run(&pipeline, Schedule::OneFOneB);
    assert_eq!(got.makespan_ns, 16 * 2900 + (3 * 1000 + 40) + (3 * 1000 + 40));
}

#[test]
fn boundary_transfers_are_paid_on_the_way_down_and_back() {
    let mut pipeline = unit(4, 1, 0);
    pipeline.boundary_bytes = 250;
    pipeline.cluster.intra = Link::new(0.5, 0.1).expect("valid");
    // 250 bytes at 0.5 GB/s and 100 ns latency, three hops each way.
    assert_eq!(run(&pipeline, Schedule::OneFOneB).makespan_ns, 4 * 2000 + 6 * 600);
}

#[test]
fn sixty_four_stages_and_4096_micro_batches_take_under_a_second() {
    let pipeline = unit(64, 4096, 700);
    for schedule in [Schedule::OneFOneB, BPIPE] {
        // The best of three: the machine may be busy.
        let time = |_| {
            let start = Instant::now();
            let got = run(&pipeline, schedule);
            assert_eq!(got.makespan_ns, 1000 * (2 * 4096 + 2 * 63));
            start.elapsed()
        };
        let best = (0..3).map(time).min().expect("three runs");
        println!("{}: {best:?}", schedule.name());
        assert!(best.as_secs_f64() <= 1.0, "{}: {best:?}", schedule.name());
    }
}

#[test]
fn v_half_halves_memory_without_transfers() {
    let pipeline = unit(8, 64, 900);
    let (half, plain) = (run(&pipeline, Schedule::VHalf), run(&pipeline, Schedule::OneFOneB));
    assert!(half.spans.iter().all(|span| !matches!(span.op.kind, OpKind::Evict | OpKind::Load)));
    assert_eq!(half.peak_micro_batches(), f64::from(smallest_cap(8, 64)));
    assert_eq!(plain.peak_micro_batches(), 8.0);
}
