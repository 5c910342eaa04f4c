//! `moray study` from its arguments to its files.

use std::path::Path;

use clap::Parser;
use moray_lab::cli::{Cli, run};
use moray_lab::fixture::Fixture;
use moray_lab::study::Study;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Folder(tempfile::tempdir().unwrap());
        Fixture::default().write_gguf(&folder.0.path().join("tiny.gguf")).unwrap();
        let text: String = (0..400).map(|word| format!("word {} and ", word * word % 97)).collect();
        std::fs::write(folder.0.path().join("text.txt"), text).unwrap();
        folder
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    fn run(&self, more: &[&str]) -> Result<String, String> {
        let (model, text, out) = (self.path("tiny.gguf"), self.path("text.txt"), self.path("out"));
        let arguments = ["moray", "study", "--model", &model, "--text", &text, "--out", &out];
        let cli = Cli::try_parse_from(arguments.iter().chain(more)).map_err(|error| error.to_string())?;
        let mut out = Vec::new();
        run(cli, &mut out).map_err(|error| error.to_string())?;
        Ok(String::from_utf8(out).unwrap())
    }

    /// The numbers of a column of study.csv, whose texts have no commas.
    fn csv_column(&self, name: &str) -> Vec<f64> {
        let csv = std::fs::read_to_string(self.path("out/study.csv")).unwrap();
        let mut lines = csv.lines().map(|line| line.split(',').collect::<Vec<_>>());
        let place = lines.next().unwrap().iter().position(|column| *column == name).unwrap();
        lines.map(|fields| fields[place].parse().unwrap()).collect()
    }

    fn study(&self) -> Study {
        serde_json::from_slice(&std::fs::read(self.path("out/study.json")).unwrap()).unwrap()
    }
}

const WINDOWS: [&str; 4] = ["--context", "64", "--tokens", "256"];

const METHODS: [&str; 6] = ["--methods", "topk,griffin,teal,cett:0.2", "--kept", "0.75,0.5", "--repeats", "0"];

fn quality() -> Vec<&'static str> {
    [&WINDOWS[..], &METHODS].concat()
}

#[test]
fn a_grid_has_the_quality_that_eval_finds_and_the_bytes_of_what_was_kept() {
    let folder = Folder::new();
    let table = folder.run(&[&quality()[..], &["--heads", "all,norm:0.5", "--kv", "hole"]].concat()).unwrap();
    let study = folder.study();
    assert_eq!(study.records.len(), 1 + 2 * (3 * 2 + 1));
    let of = |line: &str| study.records.iter().find(|record| record.switches == line).unwrap();
    let (model, text) = (folder.path("tiny.gguf"), folder.path("text.txt"));
    for line in ["--weights dense --mlp topk:0.5", "--weights dense --mlp griffin:0.75 --heads norm:0.5 --kv hole"] {
        let arguments = [
            "moray",
            "eval",
            "--model",
            &model,
            "--text",
            &text,
            "--json",
            "--second-half",
            "--context",
            "64",
            "--tokens",
            "256",
        ];
        let cli = Cli::try_parse_from(arguments.into_iter().chain(line.split(' '))).unwrap();
        let mut out = Vec::new();
        run(cli, &mut out).unwrap();
        let eval: serde_json::Value = serde_json::from_slice(&out).unwrap();
        let record = of(line);
        // printed and read once
        let close = |a: f64, b: &serde_json::Value| (a / b.as_f64().unwrap() - 1.0).abs() < 4.0 * f64::EPSILON;
        assert!(close(record.perplexity, &eval["perplexity"]) && close(record.kl, &eval["dense"]["kl"]), "{line}");
        let ratio = eval["perplexity"].as_f64().unwrap() / eval["dense"]["perplexity"].as_f64().unwrap();
        // exp of a mean difference, and a quotient of exps of means over 128 positions
        assert!((record.perplexity_ratio / ratio - 1.0).abs() < 1e-12, "{line}");
    }
    let whole = of("--weights dense");
    assert!(whole.is_whole() && whole.perplexity_ratio == 1.0 && whole.fewer_bytes() == 1.0);
    let mlp = 2 * Fixture::default().n_layers * 3 * Fixture::default().d_ff * Fixture::default().hidden;
    let spared = |line: &str| (whole.bytes_per_token - of(line).bytes_per_token) as f64 / mlp as f64;
    let thirds = |line: &str| (3.0 * spared(line) * 1000.0).round() / 1000.0;
    // half of up and down; half of all three; nothing of gate and up, and of down what was not kept
    assert_eq!([thirds("--weights dense --mlp topk:0.5"), thirds("--weights dense --mlp griffin:0.5")], [1.0, 1.5]);
    let cett = of("--weights dense --mlp cett:0.2");
    // bytes of a layer are rounded to whole ones: one in thousands
    assert!((3.0 * spared(&cett.switches) - (1.0 - cett.kept_fraction())).abs() < 1e-3);
    for (name, parts) in [
        ("study.md", ["griffin:0.75", "at +2% perplexity", "fewer bytes"]),
        ("study.csv", ["\"--weights dense --mlp topk:0.5\"", "perplexity_ratio", "kept_inputs"]),
        ("study.html", ["<svg", "prefers-color-scheme: dark", "Kept by layer"]),
    ] {
        let written = std::fs::read_to_string(folder.path(&format!("out/{name}"))).unwrap();
        assert!(parts.iter().all(|part| written.contains(part)), "{name}: {written}");
        assert!(name != "study.md" || written == table);
        assert!(!written.contains("src=") && !written.contains("href="), "{name} loads something");
    }
}

#[test]
fn logits_spare_bytes_of_the_output_layer_and_are_found_with_their_method() {
    let folder = Folder::new();
    let grid = ["--methods", "dense,teal", "--kept", "0.5", "--logits", "all,preview:2", "--repeats", "0"];
    folder.run(&[&WINDOWS[..], &grid].concat()).unwrap();
    let study = folder.study();
    let bytes = |line: &str| study.records.iter().find(|r| r.switches == line).unwrap().bytes_per_token;
    let [whole, previewed, teal, both] =
        ["", " --logits preview:2", " --inputs teal:0.5", " --inputs teal:0.5 --logits preview:2"]
            .map(|besides| bytes(&format!("--weights dense{besides}")));
    // what both spare is what each does
    assert!(previewed < whole && teal - both == whole - previewed, "{whole} {previewed} {teal} {both}");
    let series: Vec<&str> = study.series().iter().map(|series| series.name).collect();
    assert_eq!(series.len(), 3, "{series:?}");
    // each kind of weights is spoken of once, in whatever order its cells are
    let rows = ["--row", "--weights f32 --mlp topk:0.5", "--row", "--weights dense --mlp topk:0.5"];
    let table = folder.run(&[&WINDOWS[..], &grid, &rows].concat()).unwrap();
    assert_eq!(table.matches("Over --weights dense").count(), 1, "{table}");
}

#[test]
fn an_interrupted_study_goes_on_and_ends_alike() {
    let folder = Folder::new();
    let whole = folder.run(&quality()).unwrap();
    let log = Path::new(&folder.path("out/study.jsonl")).to_owned();
    let lines = std::fs::read_to_string(&log).unwrap();
    // the last cells are gone, and one of them is half written
    let end = lines.lines().take(4).map(|line| line.len() + 1).sum::<usize>();
    std::fs::write(&log, &lines[..end + 40]).unwrap();
    assert_eq!(folder.run(&quality()).unwrap(), whole);
    assert_eq!(std::fs::read_to_string(&log).unwrap(), lines);
    // half of a character is no line either
    std::fs::write(&log, [lines.as_bytes(), b"{\"key\": \"\xc3"].concat()).unwrap();
    // nothing is left to run
    assert_eq!(folder.run(&quality()).unwrap(), whole);
    assert_eq!(std::fs::read_to_string(&log).unwrap(), lines);
    // another text is another study
    let count = || std::fs::read_to_string(&log).unwrap().lines().count();
    let before = count();
    let text = folder.path("text.txt");
    std::fs::write(&text, std::fs::read_to_string(&text).unwrap().replace("and", "or")).unwrap();
    folder.run(&quality()).unwrap();
    assert_eq!(count(), 2 * before);
    for (other, said) in [
        (&b"{\"key\": 1}\nand more"[..], "study.jsonl: line 1: expected a record of a study"),
        (b"\xff\xfe\n", "study.jsonl: lines: expected records of a study, in UTF-8"),
    ] {
        std::fs::write(&log, other).unwrap();
        let refusal = folder.run(&quality()).unwrap_err();
        assert!(refusal.contains(said), "{refusal}");
        assert_eq!(std::fs::read(&log).unwrap(), other);
    }
}

#[test]
fn a_method_that_keeps_everything_is_timed_where_no_cell_is_like_it() {
    let folder = Folder::new();
    let grid = [
        "--methods",
        "teal",
        "--kept",
        "0.5",
        "--logits",
        "preview:2:0.7",
        "--repeats",
        "1",
        "-n",
        "1",
        "--threads",
        "1",
    ];
    folder.run(&[&WINDOWS[..], &grid].concat()).unwrap();
    let study = folder.study();
    let [_, teal] = &study.records[..] else { panic!("{:?}", study.records) };
    assert_eq!(teal.switches, "--weights dense --inputs teal:0.5 --logits preview:2:0.7");
    assert!(teal.decoding.as_ref().unwrap().idle_over_whole.unwrap().low > 0.0);
}

#[test]
fn speeds_are_measured_beside_the_same_weights_whole() {
    let folder = Folder::new();
    let speed =
        ["--methods", "teal", "--kept", "0.5", "--weights", "dense", "--repeats", "2", "-n", "2", "--threads", "1"];
    folder.run(&[&WINDOWS[..], &speed].concat()).unwrap();
    let study = folder.study();
    let [whole, teal] = &study.records[..] else { panic!("{:?}", study.records) };
    let decoding = |record: &moray_lab::study::Record| record.decoding.clone().unwrap();
    assert!(decoding(whole).speed.low > 0.0 && decoding(whole).over_whole.is_none());
    assert!(decoding(teal).over_whole.unwrap().low > 0.0 && decoding(teal).idle_over_whole.unwrap().low > 0.0);
    // the same memory, and the bytes of what was scored
    for record in &study.records {
        let bandwidth = decoding(record).predicted.unwrap() * record.bytes_per_token as f64;
        assert!((1e8..1e13).contains(&bandwidth), "{bandwidth} bytes a second");
        // a number that was read from JSON may differ in its last bit
        let is_it = |number: &f64| (number * record.bytes_per_token as f64 / bandwidth - 1.0).abs() < 1e-12;
        assert!(folder.csv_column("predicted_tokens_per_second").iter().any(is_it));
    }
    assert!(std::fs::read_to_string(folder.path("out/study.html")).unwrap().contains("<th>predicted</th>"));
    let idle = decoding(teal).idle_over_whole.unwrap();
    let said = study.findings().pop().unwrap();
    let told = if idle.high < 1.0 || idle.low > 1.0 { "" } else { "not told apart from none" };
    let cost = format!("--weights dense teal {:+.1}%", 100.0 * (1.0 / idle.median - 1.0));
    assert!(said.contains(&cost) && said.contains(told), "{said}");
    assert_eq!((study.decoded, study.rounds, study.threads), (Some([2, 32]), 2, 1));
    assert!(teal.kept[1].is_some_and(|kept| (0.3..0.7).contains(&kept)));
    assert_eq!(teal.kept_by_layer.len(), 4);
}

#[test]
fn what_cannot_be_studied_is_refused_in_words() {
    let folder = Folder::new();
    let short = ["--context", "64", "--repeats", "0"];
    let cases: [(&[&str], &[&str], &[&str]); 7] = [
        (&short, &["--methods", "tope"], &["tope", "topk:K"]),
        (&short, &["--methods", "cett"], &["cett:T"]),
        (&short, &["--methods", "teal", "--kept", "1.5"], &["kept: expected a number in (0, 1], got 1.5"]),
        (&[], &["--methods", "teal", "--context", "2"], &["context", "at least 4"]),
        (&[], &["--methods", "teal", "-n", "0"], &["n:", "at least 1"]),
        (&short, &["--methods", "teal", "--tokens", "40"], &["text.txt", "at least the 64 tokens of a window", "40"]),
        (&short, &["--row", "--weights g65"], &["g65"]),
    ];
    for (base, more, parts) in cases {
        let refusal = folder.run(&[base, more].concat()).unwrap_err();
        assert!(parts.iter().all(|part| refusal.contains(part)), "{more:?}: {refusal}");
    }
}

#[test]
fn a_model_whose_logits_have_no_preview_is_refused_with_the_switches_that_run() {
    let folder = Folder::new();
    let few = [&WINDOWS[..], &["--kept", "0.5", "--repeats", "0"]].concat();
    let refusal = folder.run(&few).unwrap_err();
    let (_, rest) = refusal.split_once("; --methods ").unwrap_or_else(|| panic!("{refusal}"));
    let methods = rest.strip_suffix(" leaves out what has one").unwrap_or_else(|| panic!("{refusal}"));
    assert!(methods.starts_with("topk,cats,") && methods.ends_with(",teal"), "{refusal}");
    let logits = ["--logits", "all,preview:64"];
    let refusal = folder.run(&[&few[..], &["--methods", "auto"], &logits].concat()).unwrap_err();
    assert!(refusal.ends_with("; --methods dense --logits all leaves out what has one"), "{refusal}");
    let refusal = folder.run(&[&few[..], &["--methods", "topk"], &logits].concat()).unwrap_err();
    assert!(refusal.ends_with("; --logits all leaves out what has one"), "{refusal}");
    folder.run(&[&few[..], &["--methods", methods]].concat()).unwrap();
    folder.run(&[&few[..], &["--methods", "dense", "--logits", "all"]].concat()).unwrap();
}
