//! Profiles: JSON and CSV alike, per stage, and what is wrong with them.

use crate::command::bpipe;
use moray_bpipe::profile::Profile;
use std::path::PathBuf;
use tempfile::TempDir;

fn file(folder: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, text).expect("a file");
    path
}

const CSV: &str = "# measured by hand\nmicro_batch,stage,forward_us,backward_us,activation_bytes,static_bytes\n\
                   1,,10,21.5,1000,5000\n2,,18,,2000,\n";

#[test]
fn csv_profile_matches_json_profile() {
    let folder = tempfile::tempdir().expect("a folder");
    let csv = CSV.replace("2,,18,,2000,", "2,,18,40,2000,5000");
    let json = r#"{"points": [
        {"micro_batch": 1, "forward_us": 10, "backward_us": 21.5, "activation_bytes": 1000, "static_bytes": 5000},
        {"micro_batch": 2, "forward_us": 18, "backward_us": 40, "activation_bytes": 2000, "static_bytes": 5000}]}"#;
    let read = |name, text| Profile::read(&file(&folder, name, text)).expect("a valid profile");
    assert_eq!(read("a.csv", &csv), read("a.json", json));
}

#[test]
fn per_stage_profile_simulates_every_stage_and_estimates_the_slowest() {
    let folder = tempfile::tempdir().expect("a folder");
    let times = [(10, 20), (12, 24), (9, 18), (11, 30)];
    let rows: String = times.iter().enumerate().map(|(x, (f, b))| format!("1,{x},{f},{b}\n")).collect();
    let path = file(&folder, "p.csv", &format!("micro_batch,stage,forward_us,backward_us\n{rows}"));
    let path = path.to_str().expect("UTF-8");
    let run = |command: &str, more: &[&str]| {
        let arguments =
            [&[command, "--global-batch", "8", "--stages", "4", "--profile", path, "--json"], more].concat();
        let text = bpipe(&arguments).expect("a valid command");
        serde_json::from_str::<serde_json::Value>(&text).expect("JSON")
    };
    let estimate = run("estimate", &[]);
    assert_eq!(estimate["rows"][0]["stage_time_us"].as_f64(), Some(41.0));
    let simulated = run("simulate", &["--schedule", "1f1b"]);
    for (x, (forward, backward)) in times.iter().enumerate() {
        let busy = simulated[0]["per_stage"][x]["busy_ns"].as_u64();
        assert_eq!(busy, Some(8 * 1000 * (forward + backward)));
    }
}

#[test]
fn profile_memory_decides_what_fits() {
    let folder = tempfile::tempdir().expect("a folder");
    let gib = 1_u64 << 30;
    let point = |b: u64, us| {
        let bytes = format!("\"activation_bytes\": {}, \"static_bytes\": {}", b * gib, 10 * gib);
        format!("{{\"micro_batch\": {b}, \"time_us\": {us}, {bytes}}}")
    };
    let text = format!(
        "{{\"global_batch\": 64, \"stages\": 8, \"memory_bytes\": {}, \"points\": [{}, {}, {}]}}",
        20 * gib,
        point(1, 10),
        point(2, 14),
        point(4, 20)
    );
    let path = file(&folder, "p.json", &text);
    let text = bpipe(&["estimate", "--profile", path.to_str().expect("UTF-8"), "--json"]).expect("valid");
    let report: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    // 10 + 8 and 10 + 5·2 GiB fit in 20, 10 + 8·2 and 10 + 5·4 do not.
    let (plain, bpipe) = (report["best_plain"].as_u64(), report["best_bpipe"].as_u64());
    assert_eq!((plain, bpipe), (Some(1), Some(2)));
    let peak = |row: usize, key: &str| report["rows"][row]["fit"][key].as_u64().map(|bytes| bytes / gib);
    assert_eq!([peak(1, "plain_bytes"), peak(1, "bpipe_bytes")], [Some(26), Some(20)]);
    assert_eq!([peak(2, "plain_bytes"), peak(2, "bpipe_bytes")], [Some(42), Some(30)]);
}

#[test]
fn bad_profiles_give_clear_errors() {
    let cases = [
        ("a.csv", "", "expected a header, got an empty file"),
        ("a.csv", "micro_batch,speed\n1,2\n", "expected a point's field such as micro_batch or time_us, got \"speed\""),
        ("a.csv", "micro_batch,time_us\n1\n", "line 2: expected 2 cells, got 1"),
        ("a.csv", "micro_batch,time_us\n1,fast\n", "line 2: time_us: expected a number, got \"fast\""),
        ("a.csv", "micro_batch,time_us\n,3\n", "micro_batch: expected a number, got an empty cell"),
        ("a.csv", "micro_batch,time_us\n1,-3\n", "expected a positive number, got -3"),
        ("a.csv", CSV, "forward or backward time at micro-batch 2: expected both forward_us and backward_us"),
        (
            "a.csv",
            "micro_batch\n1\n",
            "time at micro-batch 1: expected time_us, forward_us and backward_us, or stage_mfu",
        ),
        ("a.json", "{\"points\": []}", "points: expected at least one measurement, got none"),
        ("a.json", "{\"points\": [{\"micro_batch\": 1, \"mfu\": 3}]}", "unknown field `mfu`"),
        ("a.json", "[", "EOF while parsing"),
        ("a.json", "{\"points\": [{\"micro_batch\": 1, \"stage_mfu\": 40}]}", "more than 0 and at most 1, got 40"),
    ];
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text, expected) in cases {
        let error = Profile::read(&file(&folder, name, text)).expect_err(text).to_string();
        assert!(error.starts_with("profile ") && error.contains(expected), "{text}\n  got {error}");
    }
}

#[test]
fn incomplete_stages_give_clear_errors() {
    let folder = tempfile::tempdir().expect("a folder");
    let header = "micro_batch,stage,time_us\n";
    let cases = [
        ("1,0,5\n1,1,5\n1,3,5\n", "points of stage 2 at micro-batch 1: expected 1 values, got 0"),
        ("1,0,5\n1,1,5\n1,1,6\n1,2,5\n1,3,5\n", "points of stage 1 at micro-batch 1: expected 1 values, got 2"),
        ("1,0,5\n1,1,5\n1,2,5\n1,3,5\n1,4,5\n", "points at micro-batch 1: expected 4 values, got 5"),
    ];
    for (rows, expected) in cases {
        let path = file(&folder, "p.csv", &format!("{header}{rows}"));
        let path = path.to_str().expect("UTF-8");
        let error = bpipe(&["estimate", "--global-batch", "8", "--stages", "4", "--profile", path]).expect_err(rows);
        assert!(error.contains(expected), "{error}");
    }
}
