//! The equations against the anchors and against each other.

use moray_bpipe::Error;
use moray_bpipe::claims::{CLAIMS, Setting, judge};
use moray_bpipe::equations::{Efficiency, Replica};
use moray_bpipe::estimate::{Estimate, Fit, Measured};
use moray_bpipe::explain::{explain, pick_step};
use moray_bpipe::pipeline::{Pipeline, StageCost};
use moray_bpipe::{Schedule, simulate};

fn replica() -> Replica {
    Replica::new(128, 8).expect("valid")
}

fn measured(points: &[(u32, f64)]) -> Vec<Measured> {
    let one = |&(micro_batch, mfu): &(u32, f64)| Measured { micro_batch, stage_mfu: Some(mfu), stage_time_us: None };
    points.iter().map(one).collect()
}

/// Sizes above `plain` need BPipe, above `bpipe` nothing helps.
fn fits(plain: u32, bpipe: u32) -> impl Fn(u32) -> Result<Option<Fit>, Error> {
    move |b| {
        let bytes = |largest| if b <= largest { 50 } else { 90 };
        Ok(Some(Fit { plain_bytes: bytes(plain), bpipe_bytes: bytes(bpipe), capacity_bytes: 80 }))
    }
}

#[test]
fn break_even_matches_anchor_at_batch_128_depth_8() {
    let gain = |y, x| format!("{:.1}", 100.0 * replica().break_even_gain(y, x).expect("divisible"));
    assert_eq!([gain(1, 2), gain(1, 4), gain(2, 4)], ["5.2", "15.6", "9.9"]);
}

#[test]
fn speed_up_matches_ratio_of_iteration_times() {
    let (y, x) = ((2, 700.0), (8, 2300.0));
    let time = |(b, us): (u32, f64)| replica().iteration_time_us(b, us).expect("valid");
    let efficiency = |(b, us): (u32, f64)| Efficiency { micro_batch: b, value: f64::from(b) / us };
    let got = replica().speed_up(efficiency(y), efficiency(x)).expect("valid");
    // Both are the same ratio of products; fewer than 12 roundings of half an ulp each.
    assert!((got / (time(y) / time(x)) - 1.0).abs() <= 6.0 * f64::EPSILON);
}

#[test]
fn break_even_gain_yields_speed_up_of_one() {
    for (y, x) in [(1, 2), (2, 4), (1, 128), (16, 64)] {
        let gain = replica().break_even_gain(y, x).expect("divisible");
        let point = |micro_batch, value| Efficiency { micro_batch, value };
        let got = replica().speed_up(point(y, 0.3), point(x, 0.3 * (1.0 + gain))).expect("valid");
        assert!((got - 1.0).abs() <= 6.0 * f64::EPSILON, "{got}");
    }
}

#[test]
fn claim_table_matches_anchor_figures() {
    let setting =
        Setting { replica: replica(), tensor_parallel: 4, capacity_bytes: 76 << 30, bytes_per_parameter: 18.0 };
    let verdicts = judge(&setting, &[]).expect("valid");
    let gpt = &verdicts[0];
    assert_eq!(format!("{:.3}", gpt.from_recalled.expect("recalled")), "1.388");
    assert_eq!(format!("{:.2}", gpt.recalled_speed_up.expect("recalled")), "1.35");
    assert_eq!((gpt.largest_plain, gpt.largest_bpipe), (Some(1), Some(2)));
    // Stage 0 of LLaMA 65B: 8.36e9 parameters of 18 bytes over 4 devices and 8 micro-batches of 5.39e9 bytes at b = 4
    // are 75.2 of 76 GiB; 5 of 10.8e9 at b = 8 are 85.1.
    assert_eq!((verdicts[2].largest_plain, verdicts[2].largest_bpipe), (Some(4), Some(4)));
    assert_eq!((verdicts[2].break_even_gain, verdicts[0].break_even_gain.map(f64::to_bits)), {
        (None, Some(replica().break_even_gain(1, 2).expect("divisible").to_bits()))
    });
    assert!(verdicts.iter().all(|verdict| verdict.measured_speed_up.is_none()), "nothing was measured");
    assert_eq!(verdicts.len(), CLAIMS.len());
}

#[test]
fn estimate_picks_baseline_and_best_by_memory() {
    let points = measured(&[(4, 0.50), (1, 0.40), (2, 0.48), (8, 0.60)]);
    let estimate = Estimate::new(replica(), &points, None, fits(2, 4)).expect("valid");
    let sizes: Vec<u32> = estimate.rows.iter().map(|row| row.measured.micro_batch).collect();
    assert_eq!(sizes, [1, 2, 4, 8]);
    assert_eq!((estimate.baseline, estimate.best_plain, estimate.best_bpipe), (2, Some(2), Some(2)));
    assert_eq!(estimate.bpipe_gain, Some(1.0));
    let better = measured(&[(1, 0.40), (2, 0.48), (4, 0.58)]);
    let estimate = Estimate::new(replica(), &better, None, fits(2, 4)).expect("valid");
    assert_eq!((estimate.best_plain, estimate.best_bpipe), (Some(2), Some(4)));
    let expected = 0.58 / 0.48 * (128.0 + 2.0 * 7.0) / (128.0 + 4.0 * 7.0);
    let got = estimate.bpipe_gain.expect("memory is known");
    assert!((got / expected - 1.0).abs() <= 6.0 * f64::EPSILON);
    let unknown = Estimate::new(replica(), &better, None, |_| Ok(None)).expect("valid");
    assert_eq!((unknown.baseline, unknown.bpipe_gain), (1, None));
}

/// A pipeline of unequal stages at micro-batch `b` whose time per sample is scaled by `scale`.
fn pipeline(b: u32, scale: f64) -> Pipeline {
    let time = |us: u64| (us as f64 * f64::from(b) * scale * 1000.0).round() as u64;
    let cost = StageCost {
        forward_ns: time(100),
        input_grad_ns: time(100),
        weight_grad_ns: time(100),
        activation_bytes: 3_000_000 * u64::from(b),
        static_bytes: 0,
    };
    let mut pipeline = Pipeline::uniform(8, 128 / b, cost);
    pipeline.stages[3].forward_ns -= time(20);
    pipeline.head.forward_ns = time(15);
    pipeline.boundary_bytes = 200_000 * u64::from(b);
    pipeline.cluster.intra = moray_bpipe::cluster::Link::new(12.0, 3.0).expect("valid");
    pipeline
}

#[test]
fn terms_multiply_to_the_simulated_speed_up() {
    let (slow, fast) = (pipeline(1, 1.3), pipeline(2, 1.0));
    let time = |p: &Pipeline| (p.stages[0].forward_ns + p.stages[0].backward_ns()) as f64 / 1e3;
    let point = |micro_batch, time| Measured { micro_batch, stage_mfu: None, stage_time_us: Some(time) };
    let points = [point(1, time(&slow)), point(2, time(&fast))];
    let estimate = Estimate::new(replica(), &points, None, fits(1, 2)).expect("valid");
    let step = pick_step(&estimate);
    assert_eq!(step, Some((1, 2)));
    let efficiency = |index: usize| Efficiency {
        micro_batch: points[index].micro_batch,
        value: f64::from(points[index].micro_batch) / points[index].stage_time_us.expect("given"),
    };
    let pipelines = Some((slow.clone(), fast.clone()));
    let (from, to) = (&estimate.rows[0], &estimate.rows[1]);
    let got = explain(replica(), from, to, (efficiency(0), efficiency(1)), pipelines).expect("valid");
    let makespan = |pipeline: &Pipeline, schedule: Schedule| {
        simulate(pipeline, &schedule.program(pipeline).expect("valid")).expect("runs").makespan_ns as f64
    };
    let bpipe = Schedule::BPipe { cap: None, lookahead: None };
    let expected = makespan(&slow, Schedule::OneFOneB) / makespan(&fast, bpipe);
    // Five factors of two divisions each, and their product: fewer than 32 roundings of half an ulp.
    assert!((got.speed_up / expected - 1.0).abs() <= 16.0 * f64::EPSILON, "{} {expected}", got.speed_up);
    assert!(got.terms.iter().all(|term| term.factor.is_some()) && got.needs_bpipe == Some(true));
    assert!(got.verdict.starts_with("bpipe gains 1."), "{}", got.verdict);
    // A stage that gains less than the bubble costs.
    let flat = measured(&[(1, 0.50), (2, 0.51)]);
    let estimate = Estimate::new(replica(), &flat, None, fits(1, 2)).expect("valid");
    let point = |micro_batch, value| Efficiency { micro_batch, value };
    let rows = (&estimate.rows[0], &estimate.rows[1]);
    let got = explain(replica(), rows.0, rows.1, (point(1, 0.50), point(2, 0.51)), None).expect("valid");
    assert_eq!(got.verdict, "bpipe does not gain (0.970x) for 1 -> 2: the stage gains +2.0% where +5.2% breaks even");
    assert!(got.terms[2..].iter().all(|term| term.factor.is_none()));
}
