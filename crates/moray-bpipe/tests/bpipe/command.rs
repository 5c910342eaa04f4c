//! The command line, run in this process.

use clap::Parser;
use moray_bpipe::cli::{Command, run};
use serde_json::Value;

#[derive(Parser)]
#[command(name = "moray bpipe")]
struct Line {
    #[command(subcommand)]
    command: Command,
}

/// Runs `moray bpipe` with these arguments; an error is its message.
pub fn bpipe(arguments: &[&str]) -> Result<String, String> {
    let line = std::iter::once("moray bpipe").chain(arguments.iter().copied());
    let parsed = Line::try_parse_from(line).map_err(|error| error.to_string())?;
    let mut out = Vec::new();
    run(&parsed.command, &mut out).map_err(|error| error.to_string())?;
    String::from_utf8(out).map_err(|error| error.to_string())
}

/// Runs it with the words of one line.
pub fn words(line: &str) -> Result<String, String> {
    bpipe(&line.split_whitespace().collect::<Vec<_>>())
}

fn json(line: &str) -> Value {
    serde_json::from_str(&words(line).expect("a valid command")).expect("valid JSON")
}

#[test]
fn estimate_json_matches_equations() {
    let report = json("estimate --global-batch 128 --stages 8 --stage-mfu 1=40,2=50 --json");
    let rows = report["rows"].as_array().expect("rows");
    let number = |row: usize, key: &str| rows[row][key].as_f64().expect("a number");
    let expected = [0.4 * 128.0 / 135.0, 0.5 * 128.0 / 142.0];
    for (row, expected) in expected.iter().enumerate() {
        assert!((number(row, "mfu") / expected - 1.0).abs() <= 4.0 * f64::EPSILON);
    }
    assert!((number(1, "speed_up") / (expected[1] / expected[0]) - 1.0).abs() <= 8.0 * f64::EPSILON);
}

#[test]
fn times_and_mfu_give_the_same_estimate_with_a_preset() {
    let common = "--global-batch 128 --stages 8 --preset llama-65b --tensor-parallel 4 --peak-tflops 312";
    let by_time = json(&format!("estimate {common} --stage-time-us 1=98000,2=180000 --json"));
    let rows = by_time["rows"].as_array().expect("rows");
    let percent = |row: usize| 100.0 * rows[row]["stage_mfu"].as_f64().expect("an MFU");
    // Seventeen digits carry a double exactly.
    let mfus = format!("1={:.17e},2={:.17e}", percent(0), percent(1));
    let by_mfu = json(&format!("estimate {common} --stage-mfu {mfus} --json"));
    for (row, time) in [(0, 98_000.0), (1, 180_000.0)] {
        let got = by_mfu["rows"][row]["stage_time_us"].as_f64().expect("a time");
        assert!((got / time - 1.0).abs() <= 8.0 * f64::EPSILON, "{got}");
    }
}

#[test]
fn preset_simulation_matches_estimate_but_for_the_head() {
    let common =
        "--global-batch 64 --stages 8 --preset llama-65b --tensor-parallel 4 --peak-tflops 312 --stage-mfu 1=50";
    let estimate = json(&format!("estimate {common} --json"));
    let simulated = json(&format!("simulate {common} --schedule 1f1b --json"));
    let stage_us = estimate["rows"][0]["stage_time_us"].as_f64().expect("a time");
    let flops = moray_bpipe::presets::preset("llama-65b").expect("known").forward_flops(2048);
    let head_us = stage_us * flops.head / (flops.layer * 10.0);
    // The last stage paces the pipeline: 64 of its micro-batches and the way there and back, to 1 ns per operation.
    let expected_us = 64.0 * (stage_us + head_us) + 7.0 * stage_us;
    let makespan_ns = simulated[0]["makespan_ns"].as_f64().expect("a makespan");
    assert!((makespan_ns - 1e3 * expected_us).abs() <= 2.0 * 2.0 * 71.0, "{makespan_ns} {expected_us}");
}

#[test]
fn page_is_self_contained_and_plots_every_schedule() {
    let folder = tempfile::tempdir().expect("a folder");
    let (page, svg) = (folder.path().join("page.html"), folder.path().join("timeline.svg"));
    let (page_name, svg_name) = (page.to_str().expect("UTF-8"), svg.to_str().expect("UTF-8"));
    let arguments = ["simulate", "--forward-us", "1", "--backward-us", "2", "--stages", "8", "--micro-batches", "16"];
    let more = ["--schedule", "all", "--activation-mib", "100", "--html", page_name, "--svg", svg_name];
    bpipe(&[&arguments[..], &more[..]].concat()).expect("a valid command");
    let html = std::fs::read_to_string(page).expect("a page");
    assert_eq!(html.matches("<svg").count(), 2 * 5);
    assert!(!html.contains("<script") && !html.contains("src=") && !html.contains("href="));
    // V-Half draws two chunks of three operations, the others one of two, BPipe its transfers too.
    let drawn = |kind: &str| html.matches(&format!("<title>{kind} of micro-batch")).count();
    assert_eq!(drawn("forward"), 8 * 16 * 7);
    assert_eq!(drawn("backward"), 8 * 16 * 5);
    assert_eq!(drawn("weight gradient"), 8 * 16 * 2);
    assert!(drawn("eviction") > 0 && drawn("eviction") == drawn("load"));
    assert!(std::fs::read_to_string(svg).expect("a plot").starts_with("<svg"));
}

#[test]
fn all_schedules_leave_out_what_does_not_fit_and_a_named_one_is_refused() {
    let line = "simulate --forward-us 1 --backward-us 2 --stages 4 --micro-batches 6 --schedule";
    let reason = "interleaved 1F1B: expected micro-batches in a multiple of 4 stages, got 6";
    let said = words(&format!("{line} all")).expect("the others");
    assert!(said.contains(&format!("interleaved left out: {reason}\n")), "{said}");
    for kept in ["gpipe", "1f1b", "bpipe", "v-half"] {
        assert!(said.contains(&format!("| {kept} ")), "{said}");
    }
    let reports = json(&format!("{line} all --json"));
    let of =
        |name: &str| reports.as_array().expect("schedules").iter().find(|report| report["schedule"] == name).cloned();
    assert_eq!(of("interleaved").expect("named")["left_out"], reason);
    assert!(of("gpipe").expect("run")["makespan_ns"].is_u64());
    assert_eq!(words(&format!("{line} 1f1b,interleaved")).expect_err("named"), reason);
}

#[test]
fn long_runs_are_drawn_in_part_and_say_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let page = folder.path().join("page.html");
    let line = "simulate --forward-us 1 --backward-us 2 --stages 8 --micro-batches 2000 --schedule 1f1b --html";
    let words: Vec<&str> = line.split_whitespace().chain([page.to_str().expect("UTF-8")]).collect();
    bpipe(&words).expect("a valid command");
    let html = std::fs::read_to_string(page).expect("a page");
    assert!(html.contains("The timeline shows the first") && html.len() < 2_000_000, "{} bytes", html.len());
}

#[test]
fn spans_in_json_match_the_makespan() {
    let line = "simulate --forward-us 1 --backward-us 2 --stages 4 --micro-batches 8 --schedule bpipe";
    let report = json(&format!("{line} --json --spans"));
    let spans = report[0]["spans"].as_array().expect("spans");
    let last = spans.iter().filter_map(|span| span["end_ns"].as_u64()).max();
    assert_eq!(last, report[0]["makespan_ns"].as_u64());
    assert!(report[0]["lower_bound_ns"].as_u64() <= last);
    assert_eq!(report[0]["memory"].as_array().map(Vec::len), Some(4));
    assert!(json(&format!("{line} --json"))[0].get("spans").is_none());
}

#[test]
fn timeline_matches_drawing_at_unit_cost() {
    let line = "simulate --forward-us 1 --backward-us 1 --stages 2 --micro-batches 3 --schedule 1f1b --timeline";
    let text = words(line).expect("a valid command");
    assert!(text.contains("stage  0 |01.a2b.c|\nstage  1 |.0a1b2c.|\n"), "{text}");
}
