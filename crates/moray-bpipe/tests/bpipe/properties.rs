//! Random pipelines: the engine against the oracle, and what must hold of every run.

use crate::oracle;
use crate::simulate::cost;
use moray_bpipe::cluster::{Cluster, Link, Placement};
use moray_bpipe::memory::{StageMemory, partner, smallest_cap, stage_peaks};
use moray_bpipe::pipeline::Pipeline;
use moray_bpipe::{Op, OpKind};
use moray_bpipe::{Schedule, Simulation, simulate};
use proptest::prelude::*;
use std::collections::HashMap;

/// A pipeline and which chunk count to interleave with.
fn pipelines() -> impl Strategy<Value = Pipeline> {
    let stages = prop_oneof![3 => 2_usize..=9, 1 => 10_usize..=14];
    let cost = (1_u64..2000, 0_u64..2000, 1_u64..2000, 0_u64..9000).prop_map(|(f, b, w, a)| cost(f, b, w, a));
    let extra = (0_u64..800, 0_u64..800, 0_u64..800, 0_u64..500).prop_map(|(f, b, w, a)| self::cost(f, b, w, a));
    let link = prop_oneof![
        Just(Link::FREE),
        (0.2_f64..20.0, 0.0_f64..2.0).prop_map(|(gb, us)| { Link::new(gb, us).expect("a positive bandwidth") })
    ];
    let cluster = (any::<bool>(), prop::option::of(1_u32..5), link.clone(), link, any::<bool>()).prop_map(
        |(adjacent, node_stages, intra, inter, half_duplex)| {
            let placement = if adjacent { Placement::PairAdjacent } else { Placement::Sequential };
            Cluster { placement, node_stages, intra, inter, half_duplex }
        },
    );
    let stages = stages.prop_flat_map(move |p| prop::collection::vec(cost.clone(), p));
    (stages, extra.clone(), extra, 1_u32..=30, 0_u64..3000, cluster).prop_map(
        |(stages, embedding, head, micro_batches, boundary_bytes, cluster)| Pipeline {
            stages,
            embedding,
            head,
            micro_batches,
            boundary_bytes,
            cluster,
        },
    )
}

/// A pipeline and a schedule that is valid for it.
fn cases() -> impl Strategy<Value = (Pipeline, Schedule)> {
    let pick = (0_u32..8, 2_u32..4, 0_u32..6, prop::option::of(1_u32..12));
    (pipelines(), pick).prop_map(|(mut pipeline, (which, chunks, slack, lookahead))| {
        let p = pipeline.depth();
        let schedule = match which {
            0 => Schedule::GPipe,
            1 => Schedule::OneFOneB,
            2 => {
                pipeline.micro_batches = pipeline.micro_batches.next_multiple_of(p);
                Schedule::Interleaved { chunks }
            }
            3 => Schedule::VHalf,
            _ => {
                let cap = smallest_cap(p, pipeline.micro_batches) + slack / 2;
                Schedule::BPipe { cap: Some(cap), lookahead }
            }
        };
        (pipeline, schedule)
    })
}

type Spans = HashMap<(u32, Op), (u64, u64)>;

fn spans(run: &Simulation) -> Spans {
    run.spans.iter().map(|span| ((span.device, span.op), (span.start_ns, span.end_ns))).collect()
}

/// No two operations of a set overlap.
fn one_at_a_time(mut intervals: Vec<(u64, u64)>) -> bool {
    intervals.sort_unstable();
    intervals.windows(2).all(|pair| pair[0].1 <= pair[1].0)
}

/// Most buffers held at once, from the spans alone: taken at a start, given back at an end, ends first.
fn held(run: &Simulation, device: u32) -> i64 {
    let p = run.stages.len() as u32;
    let mut changes: Vec<(u64, i64)> = Vec::new();
    for span in &run.spans {
        let here = span.device == device;
        let there = span.op.kind.is_transfer() && partner(p, span.device) == Some(device);
        match span.op.kind {
            OpKind::Forward | OpKind::Load if here => changes.push((span.start_ns, 1)),
            OpKind::Backward | OpKind::WeightGrad | OpKind::Evict if here => changes.push((span.end_ns, -1)),
            OpKind::Evict if there => changes.push((span.start_ns, 1)),
            OpKind::Load if there => changes.push((span.end_ns, -1)),
            _ => {}
        }
    }
    changes.sort_unstable();
    let (mut now, mut most) = (0, 0);
    for (_, change) in changes {
        now += change;
        most = most.max(now);
    }
    most
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn times_match_longest_path_oracle_on_random_pipelines((pipeline, schedule) in cases()) {
        let program = schedule.program(&pipeline).expect("a valid schedule");
        let got = simulate(&pipeline, &program).expect("no deadlock");
        prop_assert_eq!(spans(&got), oracle::times(&pipeline, &program));
    }

    #[test]
    fn runs_are_complete_causal_and_above_the_bound((pipeline, schedule) in cases()) {
        let program = schedule.program(&pipeline).expect("a valid schedule");
        let got = simulate(&pipeline, &program).expect("no deadlock");
        let all = spans(&got);
        let split = program.splits_backward();
        for device in 0..pipeline.depth() {
            for chunk in 0..program.chunks as u16 {
                for micro_batch in 0..pipeline.micro_batches {
                    let at = |kind| all.get(&(device, Op { kind, chunk, micro_batch })).copied();
                    let forward = at(OpKind::Forward).expect("every forward runs");
                    let backward = at(if split { OpKind::InputGrad } else { OpKind::Backward });
                    let backward = backward.expect("every backward runs");
                    prop_assert!(forward.1 <= backward.0);
                    prop_assert_eq!(at(OpKind::WeightGrad).is_some(), split);
                    prop_assert_eq!(at(OpKind::Evict).is_some(), at(OpKind::Load).is_some());
                    if let Some((evict, load)) = at(OpKind::Evict).zip(at(OpKind::Load)) {
                        prop_assert!(forward.1 <= evict.0 && evict.1 <= load.0 && load.1 <= backward.0);
                    }
                }
            }
            let of = |transfer: Option<OpKind>| -> Vec<(u64, u64)> {
                let own = got.spans.iter().filter(|span| span.device == device);
                let own = own.filter(|span| match transfer {
                    None => !span.op.kind.is_transfer(),
                    Some(kind) => span.op.kind == kind || (pipeline.cluster.half_duplex && span.op.kind.is_transfer()),
                });
                // An operation without duration overlaps nothing.
                own.map(|span| (span.start_ns, span.end_ns)).filter(|(start, end)| start < end).collect()
            };
            prop_assert!(one_at_a_time(of(None)) && one_at_a_time(of(Some(OpKind::Evict))));
            prop_assert!(one_at_a_time(of(Some(OpKind::Load))));
        }
        prop_assert!(got.makespan_ns >= pipeline.lower_bound_ns(program.layout, program.chunks, split));
    }

    #[test]
    fn memory_stays_below_the_cap_with_buffers_in_flight((pipeline, schedule) in cases()) {
        let program = schedule.program(&pipeline).expect("a valid schedule");
        let got = simulate(&pipeline, &program).expect("no deadlock");
        for device in 0..pipeline.depth() {
            let stage = &got.stages[device as usize];
            let units = (stage.peak_micro_batches * f64::from(program.chunks)).round() as i64;
            if let Some(cap) = program.cap {
                prop_assert!(units <= i64::from(cap), "stage {} holds {}, cap {}", device, units, cap);
            }
            prop_assert!(held(&got, device) <= units);
            let last = got.memory[device as usize].last().expect("a first sample");
            prop_assert_eq!((last.units, last.bytes), (0, 0));
        }
    }

    #[test]
    fn bpipe_only_adds_to_one_f_one_b(pipeline in pipelines(), lookahead in prop::option::of(1_u32..6)) {
        let makespan = |pipeline: &Pipeline, schedule: Schedule| {
            simulate(pipeline, &schedule.program(pipeline).expect("valid")).expect("no deadlock").makespan_ns
        };
        let bpipe = Schedule::BPipe { cap: None, lookahead };
        let plain = makespan(&pipeline, Schedule::OneFOneB);
        prop_assert!(makespan(&pipeline, bpipe) >= plain);
        let mut free = pipeline.clone();
        free.boundary_bytes = 0;
        free.cluster = Cluster::FREE;
        prop_assert_eq!(makespan(&free, bpipe), makespan(&free, Schedule::OneFOneB));
    }

    #[test]
    fn counted_peaks_bound_simulated_peaks(pipeline in pipelines()) {
        let memory: Vec<StageMemory> = (0..pipeline.depth())
            .map(|x| pipeline.chunk_cost(moray_bpipe::pipeline::Layout::Loop, 1, x, 0))
            .map(|cost| StageMemory { static_bytes: cost.static_bytes, activation_bytes: cost.activation_bytes })
            .collect();
        let counted = stage_peaks(&memory, pipeline.micro_batches).expect("two stages");
        let peaks = |schedule: Schedule| -> Vec<u64> {
            let run = simulate(&pipeline, &schedule.program(&pipeline).expect("valid")).expect("no deadlock");
            run.stages.iter().map(|stage| stage.peak_bytes()).collect()
        };
        let plain: Vec<u64> = counted.iter().map(|peak| peak.plain_bytes).collect();
        prop_assert_eq!(peaks(Schedule::OneFOneB), plain);
        for (got, peak) in peaks(Schedule::BPipe { cap: None, lookahead: None }).into_iter().zip(&counted) {
            prop_assert!(got <= peak.bpipe_bytes, "simulated {}, counted {}", got, peak.bpipe_bytes);
        }
    }
}
