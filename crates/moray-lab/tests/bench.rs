//! `moray bench` and `moray demo` from their arguments to what they print.

use std::path::Path;

use clap::Parser;
use moray_lab::Checkpoint;
use moray_lab::cli::bench::{Bench, Column};
use moray_lab::cli::demo::Demo;
use moray_lab::cli::{Cli, run};
use moray_lab::fixture::Fixture;

fn output(arguments: &[&str]) -> Result<String, String> {
    let cli = Cli::try_parse_from(["moray"].iter().chain(arguments)).map_err(|error| error.to_string())?;
    let mut out = Vec::new();
    run(cli, &mut out).map_err(|error| error.to_string())?;
    Ok(String::from_utf8(out).expect("UTF-8"))
}

const SHORT: [&str; 8] = ["--prompt-tokens", "9", "--positions", "1,20", "-n", "2", "--repeats", "2"];
const SHAPE: [&str; 5] = ["bench", "--shape", "smollm2-135m", "--layers", "1"];

#[test]
fn a_shape_is_written_measured_and_compared_with_another_program() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a model.gguf");
    let peer = "other: echo '{\"tokens_per_second\":0.001}'";
    let written = ["--write", file.to_str().unwrap()];
    let rows = ["--row", "--weights as-file", "--row", "--weights as-file --mlp topk:0.5"];
    let arguments = [&SHAPE[..], &SHORT, &written, &rows, &["--threads", "2", "--peer-command", peer]].concat();
    let bench: Bench = serde_json::from_str(&output(&[&arguments[..], &["--json"]].concat()).unwrap()).unwrap();
    assert!(bench.model.contains("1 of 30 layers") && bench.model.contains("random weights"), "{}", bench.model);
    assert_eq!(bench.columns, [Column::Prefill(9), Column::Decode(1), Column::Decode(20)]);
    assert_eq!((bench.rows.len(), bench.threads, bench.rounds), (3, 2, 2));
    let names: Vec<&str> = bench.rows.iter().map(|row| &*row.name).collect();
    assert_eq!(names, ["`--weights as-file`", "`--weights as-file --mlp topk:0.5`", "other"]);
    assert!(
        bench.rows[..2].iter().all(|row| row.speeds.iter().all(|speed| speed.is_some_and(|speed| speed.low > 0.0)))
    );
    // the peer says nothing but one speed, which is decoding from the first position
    let of_peer: Vec<_> = bench.rows[2].speeds.iter().map(|speed| speed.map(|speed| speed.median)).collect();
    assert_eq!(of_peer, [None, Some(0.001), None]);
    let over = |row: usize| bench.rows[row].over.iter().map(|over| &*over.name).collect::<Vec<_>>();
    assert_eq!([over(0), over(1), over(2)], [vec!["other"], vec!["`--weights as-file`"], vec![]]);
    assert!(bench.rows[0].over[0].ratios[1].unwrap().low > 1.0);
    // 4.5 bits a weight of the layer, 8.5 of the output layer
    let layer = 576 * (576 + 2 * 192 + 576 + 3 * 1536);
    assert_eq!(bench.rows[0].weight_bytes_per_token, Some(layer * 9 / 16 + 49152 * 576 * 17 / 16));
    // half of the neurons: all rows of gate, half of those of up and down, and the scales of down
    let [whole, half] = [0, 1].map(|row| bench.rows[row].weight_bytes_per_token.expect("a row of ours"));
    assert!(half < whole && whole - half < layer * 9 / 16 / 2, "{half} of {whole}");
    assert_eq!(bench.rows[2].weight_bytes_per_token, None);

    assert_eq!(Checkpoint::open(&file).unwrap().config().n_layers, 1);
    let report = output(&arguments).unwrap();
    for part in ["random weights", "prefill 9", "decode at 20", "other", "of 2 rounds"] {
        assert!(report.contains(part), "{part}: {report}");
    }
}

#[test]
fn files_of_shapes_that_nobody_keeps_are_gone_afterwards() {
    let name = format!("moray-smollm2-135m-{}.gguf", std::process::id());
    let row = ["--row", "--weights as-file", "--prompt-tokens", "0", "--positions", "1", "-n", "1", "--repeats", "1"];
    assert!(output(&[&SHAPE[..], &row].concat()).unwrap().contains("decode at 1"));
    assert!(!std::env::temp_dir().join(name).exists());
}

#[test]
#[cfg(target_os = "linux")]
fn files_of_shapes_are_gone_where_the_run_is_killed_and_other_programs_read_them() {
    let directory = tempfile::tempdir().unwrap();
    let place = |name: &str| directory.path().join(name);
    std::fs::create_dir(place("temporary")).unwrap();
    // the peer copies what it is given, says that it has, and then waits to be left alone
    let peer =
        format!("waiting: bash -c 'cp {{model}} {0}/copy && touch {0}/copied; sleep 3'", directory.path().display());
    let mut run = std::process::Command::new(env!("CARGO_BIN_EXE_moray"));
    run.args(SHAPE).args(SHORT).args(["--row", "--weights as-file", "--peer-command", &peer]);
    let mut run = run.env("TMPDIR", place("temporary")).stderr(std::process::Stdio::null()).spawn().unwrap();
    let start = std::time::Instant::now();
    while !place("copied").exists() {
        assert!(run.try_wait().unwrap().is_none(), "the run ended before its peer had begun");
        assert!(start.elapsed().as_secs() < 300, "the peer has not begun");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    run.kill().unwrap();
    run.wait().unwrap();
    assert_eq!(std::fs::read_dir(place("temporary")).unwrap().count(), 0);
    assert_eq!(Checkpoint::open(&place("copy")).unwrap().config().n_layers, 1);
}

#[test]
fn what_cannot_be_measured_is_refused_in_words() {
    let with = |more: &[&str]| output(&[&SHAPE[..], &["--row", "--weights as-file"], more].concat()).unwrap_err();
    let cases: [(&[&str], &[&str]); 8] = [
        (&["--positions", "0"], &["positions", "at least 1"]),
        (&["--repeats", "0"], &["repeats", "at least 1"]),
        (&["-n", "0"], &["n:", "at least 1"]),
        (&["--positions", "9000"], &["position", "9032"]),
        (&["--row", "--weights g65"], &["g65"]),
        (&["--peer-command", "'open"], &["'"]),
        (&["--text", "/no/such/text", "--positions", "1"], &["/no/such/text"]),
        (&["--model", "a.gguf"], &["--model", "--shape"]),
    ];
    for (more, parts) in cases {
        let refusal = with(more);
        assert!(parts.iter().all(|part| refusal.contains(part)), "{more:?}: {refusal}");
    }
    assert!(output(&["bench", "--text", "a"]).unwrap_err().contains("--model"));
    let refusal =
        output(&["bench", "--shape", "smollm2-135m", "--layers", "31", "--row", "--weights as-file"]).unwrap_err();
    assert!(refusal.contains("layers: expected no more than the shape has, got 31"), "{refusal}");
}

#[test]
fn the_demo_says_of_every_row_whether_it_gains() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_string_lossy().into_owned();
    Fixture { d_ff: 128, ..Fixture::default() }.write_gguf(Path::new(&path("tiny.gguf"))).unwrap();
    std::fs::write(path("text"), "the heron and the other inland bird in the land then the hell ".repeat(20)).unwrap();
    let (model, text) = (path("tiny.gguf"), path("text"));
    let arguments = ["demo", "--model", &model, "--text", &text, "--tokens", "64", "--context", "32", "-n", "3"];
    let demo: Demo = serde_json::from_str(&output(&[&arguments[..], &["--json"]].concat()).unwrap()).unwrap();
    assert!(demo.rows[0].over.is_none() && demo.rows[1..].iter().all(|row| row.over.is_some()));
    let over = |name: &str| {
        let row = demo.rows.iter().find(|row| row.name == name).expect("a row of this name");
        row.over.as_ref().map(|over| over.name.clone()).expect("a baseline")
    };
    assert_eq!(over("W4A8 + top-k 0.7"), "W4A8, the file's own weights");
    assert_eq!(over("inputs, TEAL 0.7"), "dense, 16 bits");
    let bytes = |name: &str| demo.rows.iter().find(|row| row.name == name).expect("a row of this name").bytes_per_token;
    assert!(
        bytes("inputs, TEAL 0.5") < bytes("inputs, TEAL 0.7") && bytes("inputs, TEAL 0.7") < bytes("dense, 16 bits")
    );
    let page = path("page.html");
    let report = output(&[&arguments[..], &["--html", &page]].concat()).unwrap();
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains("<svg") && demo.rows.iter().all(|row| page.contains(&row.name)), "{page}");
    assert!(report.contains("auto is not here"), "{report}");
    let said = report.find("Faster on this machine").expect("a verdict");
    for row in &demo.rows[1..] {
        assert!(report[said..].contains(&format!("{} ", row.name)), "{}: {report}", row.name);
    }
}
